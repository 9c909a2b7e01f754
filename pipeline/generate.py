"""Decoding: one loop for scoring, rollouts and ``ask``.

``model.generate`` copies the whole key-value cache at every token, computes a shared prompt once for every row, and
keeps finished rows until the last one is done; on a CPU that is most of its time. This loop asks the same model for the
same logits. Its cache has room for the tokens to come, what prompts share is computed once (forward.py), and finished
rows leave. It also enforces limits on thinking (thinking_budget.py).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object

from data.problem import Completion, Problem
from pipeline import processes
from pipeline.forward import merge_adapter, prefill, router_arguments
from pipeline.prompts import encode_forced_opening, find_end_of_turn
from pipeline.thinking_budget import ThinkingLimits, count_thinking_tokens, find_forced_tokens

# Tokens in a block of the vocabulary: a block is sampled first, then a token of it.
BLOCK = 128

# Rows; what is best on a GPU was not measured.
BATCH_SIZES = {"cpu": 128, "cuda": 512}

# Finished rows are taken out once the others are no more than this share: taking out copies the cache.
LIVE_SHARE = 0.8


@dataclass
class TokenSequence:
    """One completion as tokens.

    ``forced[i]`` is True where a prefix or a thinking limit, not the model, chose ``ids[i]``; ``logprobs[i]`` is the
    log-probability (nats, at the sampling temperature) of a chosen token, 0.0 if greedy or forced.
    """

    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = "length"


OnProgress = Callable[[int, int], None]
OnSequence = Callable[[int, TokenSequence], None]


@dataclass(frozen=True)
class DecodingSettings:
    """How prompts are completed.

    Args:
        max_new_tokens: The most tokens of a completion, the prefix included.
        temperature: 0 is greedy; else tokens are sampled from the full distribution.
        seed: Of the sampling.
        thinking: Bounds on the tokens between the think tags.
        prefixes: Token ids that each completion begins with, one list a prompt; by default the opening tag where the
            chat template has it.
        batch_size: Rows at a time; by default what BATCH_SIZES says of the device.
        on_progress: Gets (completions, tokens) as rows finish.
        on_sequence_end: Gets (i, sequence) once the i-th prompt is complete; in a process's own share only.
        slots: Whether to decode as slots.py does; by default on a GPU only.
        places: Where each prompt stands among all that share the seed; by default in the order of the prompts. So what
            is left of an interrupted sampling is sampled as it would have been.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    thinking: ThinkingLimits | None = None
    prefixes: Sequence[Sequence[int]] | None = None
    batch_size: int | None = None
    on_progress: OnProgress | None = None
    on_sequence_end: OnSequence | None = None
    slots: bool | None = None
    places: Sequence[int] | None = None


@torch.no_grad()
def generate(
    model,
    tokenizer,
    prompts: Sequence[Sequence[int]],
    **options: Any,
) -> list[TokenSequence]:
    """Complete every prompt; returns a sequence for each, in order.

    Several processes, all called with the same, decode a share each and all return all.

    Args:
        model: On its device, with or without an adapter.
        tokenizer: Of the model.
        prompts: Token ids, one list a prompt.
        options: Those of :class:`DecodingSettings`.
    """
    # It decodes the rows of this module.
    from pipeline.slots import decode_in_slots, should_use_slots

    settings = DecodingSettings(**options)
    if settings.prefixes is None:
        # The same thought would else be counted under one template and not under another.
        prefixes = [encode_forced_opening(tokenizer)] * len(prompts)
        settings = dataclasses.replace(settings, prefixes=prefixes)

    rows = []
    for i, prompt in enumerate(prompts):
        row = Row(i, list(prompt))
        row.restart(settings)
        rows.append(row)

    # One random number a prompt and token, all drawn first: a sample does not depend on the batch it is in.
    generator = torch.Generator().manual_seed(settings.seed)
    places = list(range(len(rows)) if settings.places is None else settings.places)
    shape = (max(places, default=-1) + 1, settings.max_new_tokens)
    uniforms = torch.rand(shape, generator=generator)[places]

    state = processes.get_state()
    mine = _order_rows(rows)[state.process_index :: state.num_processes]

    size = settings.batch_size or BATCH_SIZES[model.device.type]

    # A training that samples goes on with its dropout.
    was_training = model.training
    model.eval()
    with processes.gather_weights(model), merge_adapter(model):
        if mine and should_use_slots(model, settings):
            decode_in_slots(model, tokenizer, mine, uniforms, settings, keep=was_training)
        else:
            for start in range(0, len(mine), size):
                batch = mine[start : start + size]
                Batch(model, tokenizer, batch, uniforms, settings).decode()

    model.train(was_training)
    own_share = [(row.index, row.sequence) for row in mine]
    gathered = dict(gather_object(own_share))
    return [gathered[i] for i in range(len(rows))]


def _order_rows(rows: list["Row"]) -> list["Row"]:
    """Rows in the order in which they are decoded."""
    # Equal prompts side by side: a batch computes them once.
    ordered = sorted(rows, key=lambda row: row.prompt)
    # Long prompts first: the batch that needs most memory comes first, and rows of a batch are of like length.
    ordered.sort(key=lambda row: len(row.prompt), reverse=True)
    return ordered


@dataclass
class Row:
    """One prompt on its way.

    ``pending`` holds the forced tokens that are still to come; ``is_unlimited`` says that a limit will force no others.
    """

    index: int
    prompt: list[int]
    pending: list[int] = field(default_factory=list)
    sequence: TokenSequence = field(default_factory=TokenSequence)
    is_done: bool = False
    is_unlimited: bool = False

    def restart(self, settings: DecodingSettings) -> None:
        """Go back to the prompt, with the prefix still to come."""
        self.sequence = TokenSequence()
        self.is_unlimited = False
        self.pending = []
        if settings.prefixes:
            # A copy: what is pending is used up.
            self.pending = list(settings.prefixes[self.index])


class Decoder:
    """What is done with a token that was chosen, however it was."""

    def __init__(self, model, tokenizer, settings: DecodingSettings):
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.stops = find_stop_ids(model, tokenizer)

    def add_token(self, row: Row, token: int, logprob: float) -> int:
        """Add the chosen token to a row, or the forced one in its place; returns which it was."""
        sequence = row.sequence
        settings = self.settings
        limits = settings.thinking

        if limits and not row.pending and not row.is_unlimited:
            forced = find_forced_tokens(self.tokenizer, sequence.ids, token, limits, self.stops)
            row.pending = forced or []
            row.is_unlimited = forced is None

        is_forced = bool(row.pending)
        if is_forced:
            token = row.pending.pop(0)
            logprob = 0.0

        sequence.ids.append(token)
        sequence.forced.append(is_forced)
        sequence.logprobs.append(logprob)
        if token in self.stops:
            sequence.finish = "stop"

        length = len(sequence.ids)
        row.is_done = sequence.finish == "stop" or length >= settings.max_new_tokens
        if row.is_done and settings.on_progress:
            settings.on_progress(1, length)

        if row.is_done and settings.on_sequence_end:
            settings.on_sequence_end(row.index, sequence)
        return token


class Batch(Decoder):
    """Rows that are decoded together, one token each at a time."""

    def __init__(
        self,
        model,
        tokenizer,
        rows: list[Row],
        uniforms: torch.Tensor,
        settings: DecodingSettings,
    ):
        super().__init__(model, tokenizer, settings)
        self.rows = rows

        # (rows, max_new_tokens), in [0, 1)
        indices = [row.index for row in rows]
        self.uniforms = uniforms[indices].to(model.device)

        prompts = [row.prompt for row in rows]
        self.cache, self.mask, self.logits = prefill(model, prompts)

    def decode(self) -> None:
        """Fill the sequence of every row."""
        for step in range(self.settings.max_new_tokens):
            tokens = self.choose_tokens(step)
            if all(row.is_done for row in self.rows):
                return

            tokens = self.drop_finished_rows(tokens)
            self.step_forward(tokens)

    def choose_tokens(self, step: int) -> list[int]:
        """Add a token to every row that is not finished; returns one for each row."""
        uniforms = self.uniforms[:, step]
        chosen, logprobs = sample_tokens(self.logits, self.settings.temperature, uniforms)

        # One copy from the GPU each, not one a row.
        tokens: list[int] = chosen.tolist()
        token_logprobs = logprobs.tolist()

        for place, row in enumerate(self.rows):
            if not row.is_done:
                tokens[place] = self.add_token(row, tokens[place], token_logprobs[place])
        return tokens

    def drop_finished_rows(self, tokens: list[int]) -> list[int]:
        """Take finished rows out of the batch where enough are; returns the tokens of those that stay."""
        live = [place for place, row in enumerate(self.rows) if not row.is_done]
        if len(live) > LIVE_SHARE * len(self.rows):
            return tokens

        keep = torch.tensor(live, device=self.model.device)
        self.cache.batch_select_indices(keep)
        self.mask = self.mask[keep]
        self.uniforms = self.uniforms[keep]
        self.rows = [self.rows[place] for place in live]
        return [tokens[place] for place in live]

    def step_forward(self, tokens: list[int]) -> None:
        """Compute the logits (rows, vocabulary) that follow one more token of each row."""
        new_column = self.mask.new_ones(len(tokens), 1)
        self.mask = torch.cat([self.mask, new_column], dim=1)

        # Both (rows, 1). Padding has no position of its own.
        ids = torch.tensor(tokens, device=self.model.device)[:, None]
        positions = self.mask.sum(-1, keepdim=True) - 1

        output = self.model(
            ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            **router_arguments(self.model),
        )
        self.logits = output.logits[:, -1]


def sample_tokens(
    logits,
    temperature: float,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token for each row: at random by its uniform number in [0, 1), or greedily at temperature 0.

    Sampling inverts the cumulative distribution, where torch.multinomial draws one number a vocabulary entry.

    Returns:
        The tokens and their log-probabilities (nats), both (rows,).
    """
    if not temperature:
        chosen = logits.max(-1).indices  # argmax takes six times as long in bf16 on a CPU
        return chosen, torch.zeros_like(chosen, dtype=torch.float)

    scaled = logits if temperature == 1 else logits.float() / temperature
    probabilities = torch.softmax(scaled, dim=-1, dtype=torch.float)

    # First a block of the vocabulary, then a token of it: only a block is summed up token by token.
    vocabulary = logits.shape[-1]
    missing = -vocabulary % BLOCK
    padded = probabilities
    # To pad with nothing would copy, too.
    if missing:
        padded = torch.nn.functional.pad(probabilities, (0, missing))

    # (rows, blocks, BLOCK)
    blocks = padded.unflatten(-1, (-1, BLOCK))
    block_sums = blocks.sum(-1)
    block, rest = _invert_cumulative(block_sums, uniforms)

    rows = torch.arange(len(block), device=block.device)
    inside, _ = _invert_cumulative(blocks[rows, block], rest)

    chosen = block * BLOCK + inside
    # Logits that are no numbers must not give a token past the end.
    chosen = chosen.clamp(max=vocabulary - 1)
    probability = probabilities.gather(-1, chosen[:, None])
    return chosen, probability[:, 0].log()


def _invert_cumulative(
    weights: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the cumulative weights (rows, n) pass a share of their sum, and how far into that place, as a share."""
    # A GPU sums in any order: in single precision the sums could rise where there is no weight.
    cumulative = weights.cumsum(-1, dtype=torch.double)
    total = cumulative[:, -1:]
    # No sum lies above a share of 1: it would give the last place, whatever its weight.
    below_one = uniforms.clamp(max=1 - 2**-22)
    point = below_one[:, None] * total

    last = weights.shape[-1] - 1
    place = torch.searchsorted(cumulative, point, right=True)
    place = place.clamp(max=last)

    weight = weights.gather(-1, place)
    before = cumulative.gather(-1, place) - weight
    share = (point - before) / weight
    # Rounding may lead a little past either end.
    share = share.clamp(0, 1)
    return place[:, 0], share[:, 0]


def find_stop_ids(model, tokenizer) -> set[int]:
    """Return the tokens that end a turn: the tokenizer's, those that the model's settings name, and the template's."""
    eos = model.generation_config.eos_token_id
    listed = eos if isinstance(eos, list) else [eos]
    stops = {tokenizer.eos_token_id, find_end_of_turn(tokenizer), *listed}
    return stops - {None}


def decode_text(tokenizer, ids: Sequence[int], stops: set[int]) -> str:
    """Return a completion as text, without the token that ended the turn. Think tags stay, even special ones."""
    if stops.intersection(ids[-1:]):
        ids = ids[:-1]
    return tokenizer.decode(ids)


def to_completion(
    tokenizer,
    problem: Problem,
    sequence: TokenSequence,
    stops: set[int],
    prompt_tokens: int = 0,
) -> Completion:
    """Return a sequence as what was written on a problem."""
    thinking_tokens = count_thinking_tokens(tokenizer, sequence.ids)
    return Completion(
        id=problem.id,
        text=decode_text(tokenizer, sequence.ids, stops),
        prompt_tokens=prompt_tokens,
        thinking_tokens=thinking_tokens,
        answer_tokens=len(sequence.ids) - thinking_tokens,
        finish=sequence.finish,
    )
