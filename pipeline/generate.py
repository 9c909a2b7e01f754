"""Decoding, one loop for scoring, rollouts and ``ask``.

``model.generate`` copies the whole key-value cache at every token, computes a shared prompt once for every row,
and keeps finished rows until the last is done; on a CPU that is most of its time. This loop asks the same model for
the same logits, but reserves room for the cache, computes what prompts share once, and lets finished rows leave.
It also enforces the thinking budget (s1, arXiv 2501.19393, section 3), which no library hook gives per row.
"""

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from peft.tuners.lora import Linear as LoraLinear
from transformers.cache_utils import Cache, DynamicLayer

from data.records import Completion, Problem
from pipeline import processes
from pipeline.prompts import DIRECT, END_THINK, THINK, encode

BOX = "\\boxed{"
BLOCK = 128  # tokens in a block of the vocabulary: a block is drawn first, then a token of it
AT_ONCE = {"cpu": 128, "cuda": 512}  # rows; what a card does best with was not measured
MORE = "Wait"  # what takes the place of the end of a thought that comes too soon (s1, arXiv 2501.19393, section 3.1)


@dataclass
class Sample:
    """One completion as tokens. ``forced[i]`` is True where the budget, not the model, chose ``ids[i]``;
    ``logprobs[i]`` is the log-probability (nats, at the sampling temperature) of a chosen token, 0.0 if greedy."""

    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = "length"


class ReservedLayer(DynamicLayer):
    """A cache layer that writes new tokens into reserved room; ``keys`` and ``values`` are views of it."""

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        old, new = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < new:
            rows, heads = key_states.shape[:2]
            grown = [t.new_empty(rows, heads, new + 64, t.shape[-1]) for t in (key_states, value_states)]
            grown[0][..., :old, :], grown[1][..., :old, :] = self.keys, self.values
            self.room = (grown[0], grown[1])
        self.room[0][..., old:new, :], self.room[1][..., old:new, :] = key_states, value_states
        self.keys, self.values = self.room[0][..., :new, :], self.room[1][..., :new, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    low, high = min(prompts), max(prompts)
    limit = min(len(p) for p in prompts) - 1
    return next((i for i in range(limit) if low[i] != high[i]), limit)


def count_tokens(tokenizer, ids: Sequence[int]) -> tuple[int, int]:
    """(thinking, other) tokens of a completion: a token is thinking if any of its text lies between the tags."""
    thinking = _thinking(tokenizer, ids, END_THINK)
    return thinking, len(ids) - thinking


def _thinking(tokenizer, ids: Sequence[int], closing: str) -> int:
    """How many tokens hold text between the opening tag and ``closing`` (or the end, where that is missing or "").

    Only whole decoded pieces are looked at, never offsets: a token may end in the middle of a character, and may hold
    the end of one tag and the start of another.
    """
    opened = _holding(tokenizer, ids, THINK)
    if opened > len(ids):
        return 0
    start = opened if tokenizer.decode(ids[:opened]).endswith(THINK) else opened - 1
    between = tokenizer.decode(ids).split(THINK, 1)[1]
    if not closing or closing not in between:
        return len(ids) - start  # also tokens without a text: a model may know more ids than its tokenizer
    if between.startswith(closing):
        return 0
    rest = ids[start:]
    closed = _holding(tokenizer, rest, closing)
    end = next(n for n in range(closed - 1, -1, -1) if closing in tokenizer.decode(rest[n:closed]))
    return end if tokenizer.decode(rest[end:closed]).startswith(closing) else end + 1


def _holding(tokenizer, ids: Sequence[int], tag: str) -> int:
    """How many of the first tokens it takes to hold a tag; more than there are where they do not."""
    return bisect.bisect_left(range(len(ids) + 1), True, key=lambda n: tag in tokenizer.decode(ids[:n]))


def _closing(tokenizer, ids: Sequence[int], budget: int) -> list[int]:
    """The tokens that close the thought and begin the answer where the budget is spent, else nothing."""
    text = tokenizer.decode(ids)
    if not ids:
        return encode(tokenizer, DIRECT + BOX) if budget == 0 else []
    if THINK not in text or END_THINK in text.split(THINK, 1)[1]:
        return []
    # A tail that may be the start of the closing tag counts: the next token could make content of it. Where the budget
    # is spent with it, only what is missing of the tag is forced.
    tail = next((n for n in range(len(END_THINK) - 1, 0, -1) if text.endswith(END_THINK[:n])), 0)
    spent = _thinking(tokenizer, ids, "")
    return encode(tokenizer, END_THINK[tail:] + "\n" + BOX) if spent >= budget else []


@contextlib.contextmanager
def merged(model) -> Iterator[None]:
    """``model`` with its adapter added to the weights, for as long as it only decodes: a token then costs what it costs
    the base. The weights are put back bit for bit; quantized ones, to which nothing can be added exactly, are left."""
    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, LoraLinear) and not m.merged and not m.disable_adapters
    ]
    kept = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()


def _longer(tokenizer, ids: Sequence[int], token: int, least: int, budget: int | None, stops: set[int]) -> list[int]:
    """The tokens that take the place of ``token`` where it would end, or begin to end, a thought of fewer than
    ``least`` tokens; else nothing."""
    before, after = tokenizer.decode(ids), tokenizer.decode([*ids, token])
    thought = after.partition(THINK)[2] if THINK in after else None
    spent = _thinking(tokenizer, ids, "")
    if thought is None or END_THINK in before.partition(THINK)[2] or spent >= least:
        return []
    begun = any(thought.endswith(END_THINK[:n]) for n in range(2, len(END_THINK)))
    if token not in stops and END_THINK not in thought and not begun:
        return []
    # One token may end the opening tag and begin the closing one.
    open_tag = THINK[: max(n for n in range(len(THINK)) if before.endswith(THINK[:n]))]
    missing = "" if THINK in before else THINK.removeprefix(open_tag)
    more = encode(tokenizer, ("" if before.endswith("\n") else "\n") + MORE)
    return encode(tokenizer, missing) + more[: None if budget is None else budget - spent]


@torch.no_grad()
def given(model, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    """The log-probabilities (nats, (len(ids),), on the CPU) that ``model`` gives ``ids`` after ``prompt``."""
    logits = model(torch.tensor([[*prompt, *ids]], device=model.device)).logits[0, len(prompt) - 1 : -1].float().cpu()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def stop_ids(model, tokenizer) -> set[int]:
    """The tokens that end a turn."""
    eos = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}


@torch.no_grad()
def generate(
    model,
    tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    budget: int | None = None,
    least: int = 0,
    prefixes: Sequence[Sequence[int]] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    finished: Callable[[int, Sample], None] | None = None,
    grown: Callable[[int, Sample], None] | None = None,
) -> list[Sample]:
    """Complete every prompt, in order; greedy at temperature 0, else sampled from the full distribution.

    ``budget`` caps the tokens between the think tags, exactly, 0 meaning none, and a thought of fewer than ``least`` of
    them is not let end; ``prefixes`` are tokens the completion is made to begin with, one list a prompt;
    ``progress(completions, tokens)`` is called as rows finish, ``finished(i, sample)`` with the i-th prompt's,
    ``grown(i, sample)`` after each of its tokens.

    Several processes, all called with the same, decode a share each, ``batch_size`` rows at a time (by default what
    AT_ONCE says of the device), and all return all samples; ``finished`` and ``grown`` are told of a process's own
    share only.
    """
    batch_size = batch_size or AT_ONCE[model.device.type]
    was_training = model.training
    model.eval()
    # One number a prompt and token, drawn beforehand: what a prompt gets does not depend on which share its batch.
    numbers = None
    if temperature:
        numbers = torch.rand(len(prompts), max_tokens, generator=torch.Generator().manual_seed(seed))
    samples = [Sample() for _ in prompts]
    pending = [list(p) for p in prefixes] if prefixes else [[] for _ in prompts]
    # Long prompts first: the batch that needs most memory comes first, and rows of a batch are of like length.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
    order = order[processes.state().process_index :: processes.state().num_processes]
    with processes.gathered(model), merged(model):
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            _decode(
                model,
                tokenizer,
                [list(prompts[i]) for i in rows],
                [samples[i] for i in rows],
                [pending[i] for i in rows],
                max_tokens,
                temperature,
                numbers[rows].to(model.device) if numbers is not None else None,
                budget,
                least,
                progress,
                *(
                    (lambda place, rows=rows, told=told: told(rows[place], samples[rows[place]])) if told else None
                    for told in (finished, grown)
                ),
            )
    model.train(was_training)
    for i, sample in gather_object([(i, samples[i]) for i in order]):
        samples[i] = sample
    return samples


def unrouted(model) -> dict[str, bool]:
    """What a mixture of experts must be called with: its loss of balance, which TRL's SFT switches on, is not defined
    where a call holds only part of a sequence."""
    return {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}


def _windowed(config) -> bool:
    """Whether some layer attends to the last tokens only (Gemma 3, Mistral)."""
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None) is not None


def _prefill(model, prompts: list[list[int]]) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """The cache, attention mask (rows, length) and last logits (rows, vocabulary) of a batch of prompts.

    Equal prompts are computed once; so is the prefix all share. Layout of a row: prefix, padding, own tokens. Where
    attention has a window, which is counted over padding too, nothing may stand before the padding.
    """
    unique = sorted(set(map(tuple, prompts)))
    device = model.device
    cache = Cache(layer_class_to_replicate=ReservedLayer)
    shared = 0 if _windowed(model.config.get_text_config()) else common_prefix(unique)
    if shared:
        first = torch.tensor([unique[0][:shared]], device=device)
        model(first, past_key_values=cache, logits_to_keep=1, **unrouted(model))
        cache.batch_select_indices(torch.zeros(len(unique), dtype=torch.long, device=device))
    width = max(map(len, unique)) - shared
    ids = torch.zeros(len(unique), width, dtype=torch.long)
    mask = torch.ones(len(unique), shared + width, dtype=torch.long)
    for row, prompt in enumerate(unique):
        own = prompt[shared:]
        ids[row, width - len(own) :] = torch.tensor(own)
        mask[row, shared : shared + width - len(own)] = 0
    mask = mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    output = model(
        ids.to(device),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        # By index, which copies: over a slice of the hidden states bf16 would expand the head's weight for every row.
        logits_to_keep=torch.tensor([width - 1], device=device),
        **unrouted(model),
    )
    place = {prompt: row for row, prompt in enumerate(unique)}
    rows = torch.tensor([place[tuple(p)] for p in prompts], device=device)
    cache.batch_select_indices(rows)
    return cache, mask[rows], output.logits[rows, -1]


def _choose(
    logits: torch.Tensor, temperature: float, numbers: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen tokens and their log-probabilities, both (rows,). Sampling inverts the cumulative distribution at each
    row's number in [0, 1), where torch.multinomial draws one a vocabulary entry; without numbers it is greedy."""
    if numbers is None:
        chosen = logits.max(-1).indices  # argmax's, which takes six times as long in bf16 on a CPU
        return chosen, torch.zeros_like(chosen, dtype=torch.float)
    scaled = logits if temperature == 1 else logits.float() / temperature
    probabilities = torch.softmax(scaled, dim=-1, dtype=torch.float)
    # First a block of the vocabulary, then a token of it: what is summed up token by token is a block, not all.
    lacking = -logits.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(probabilities, (0, lacking)) if lacking else probabilities
    blocks = padded.unflatten(-1, (-1, BLOCK))
    block, rest = _inverted(blocks.sum(-1), numbers)
    inside, _ = _inverted(blocks[torch.arange(len(block), device=block.device), block], rest)
    chosen = (block * BLOCK + inside).clamp(max=logits.shape[-1] - 1)  # what is no number is not drawn past the end
    return chosen, probabilities.gather(-1, chosen[:, None])[:, 0].log()


def _inverted(weights: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the cumulative weights (rows, n) of each row pass its number (rows,), a share of their sum, and how far
    into that place's weight, as a share again; both (rows,)."""
    cumulative = weights.cumsum(-1, dtype=torch.double)  # a card's sums run in any order: in float, up where nothing is
    point = numbers.clamp(max=1 - 2**-22)[:, None] * cumulative[:, -1:]  # below the sum
    place = torch.searchsorted(cumulative, point, right=True).clamp(max=weights.shape[-1] - 1)
    weight = weights.gather(-1, place)
    before = cumulative.gather(-1, place) - weight
    return place[:, 0], ((point - before) / weight).clamp(0, 1)[:, 0]


def _decode(
    model,
    tokenizer,
    prompts,
    samples,
    pending,
    max_tokens,
    temperature,
    numbers,
    budget,
    least,
    progress,
    finished,
    grown,
) -> None:
    """Fill ``samples`` for one batch; ``pending`` holds each row's forced tokens still to come, ``numbers`` (rows,
    max_tokens) what its tokens are sampled by."""
    stops = stop_ids(model, tokenizer)
    cache, mask, logits = _prefill(model, prompts)
    live = list(range(len(prompts)))  # the rows still in the batch, some of which may have finished
    done = [False] * len(prompts)
    for step in range(max_tokens):
        chosen, logprobs = _choose(logits, temperature, numbers[live, step] if numbers is not None else None)
        tokens, values = chosen.tolist(), logprobs.tolist()
        for place, row in enumerate(live):
            sample = samples[row]
            if done[row]:
                continue
            if budget is not None and not pending[row]:
                pending[row] = _closing(tokenizer, sample.ids, budget)
            if least and not pending[row]:
                pending[row] = _longer(tokenizer, sample.ids, tokens[place], least, budget, stops)
            forced = bool(pending[row])
            if forced:
                tokens[place], values[place] = pending[row].pop(0), 0.0
            sample.ids.append(tokens[place])
            sample.forced.append(forced)
            sample.logprobs.append(values[place])
            if tokens[place] in stops:
                sample.finish = "stop"
            if grown:
                grown(row)
            done[row] = sample.finish == "stop" or len(sample.ids) >= max_tokens
            if done[row] and progress:
                progress(1, len(sample.ids))
            if done[row] and finished:
                finished(row)
        if all(done[row] for row in live):
            return
        places = list(range(len(live)))
        if sum(not done[row] for row in live) <= 0.8 * len(live):
            places = [place for place, row in enumerate(live) if not done[row]]
            live = [live[place] for place in places]
            keep = torch.tensor(places, device=model.device)
            cache.batch_select_indices(keep)
            mask = mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        output = model(
            torch.tensor([[tokens[place]] for place in places], device=model.device),
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=cache,
            **unrouted(model),
        )
        logits = output.logits[:, -1]


def text_of(tokenizer, ids: Sequence[int], stops: set[int]) -> str:
    """A completion as text, without the token that ended the turn; think tags stay, even where they are special."""
    return tokenizer.decode(ids[:-1] if ids and ids[-1] in stops else ids)


def completion(tokenizer, problem: Problem, sample: Sample, stops: set[int], prompt_tokens: int = 0) -> Completion:
    """A sample as what was written on a problem."""
    thinking, other = count_tokens(tokenizer, sample.ids)
    text = text_of(tokenizer, sample.ids, stops)
    return Completion(problem.id, text, prompt_tokens, thinking, other, sample.finish)
