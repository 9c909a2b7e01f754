"""Decoding on a GPU: every row in a slot of fixed size, and a block of steps recorded once as a CUDA graph.

A step of a small model takes a GPU as long as starting its thousand kernels does. A graph starts them all at once, but
only on tensors that stay where they are, in one size. So a row writes its keys and values at its own position of a
slot, tokens are chosen within the block, and a row that ends leaves its slot to the next prompt.

Between two blocks the loop's own code looks at each token. Where a limit on thinking puts another token in the place of
the chosen one, what the block wrote after it is void: the row goes on from that place, and writes over it. Thus the
tokens are those of the loop (generate.py), sampled ones too.
"""

import functools
import math
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from pipeline import processes
from pipeline.forward import has_attention_window, prefill, router_arguments, use_attention
from pipeline.generate import Decoder, DecodingSettings, Row, TokenSequence, sample_tokens
from pipeline.progress import say

# Rows. There are few sizes, so that calls with a like number of prompts share a graph.
SIZES = (64, 256, 512, 1024)

# Of a block. What a row would write after its end is for nothing.
STEPS = 8

# Prompts that are computed at once: their cache is there twice, until it is in the slots.
PREFILL_ROWS = 256

# Tokens of a slot are a multiple of this, so that calls with prompts of like length share a graph.
ROOM_STEP = 128

# Of the free memory; training, for which slots are kept between its steps, finds the rest (memory.py).
MEMORY_SHARE = 0.25

# What choosing a token takes for each entry of the vocabulary: logits and probabilities in fp32, and copies of them.
BYTES_PER_LOGIT = 16

ATTENTION = "slots"


class SlotLayer(CacheLayerMixin):
    """A cache layer of fixed size that writes each row's new token at the row's own position.

    Keys and values are of shape (rows, heads, room, head size), and never move.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        super().__init__()
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self.positions = positions
        self.rows = torch.arange(len(positions), device=positions.device)
        self.is_initialized = True

    def lazy_initialization(self, key_states, value_states) -> None:
        """Do nothing: the room is there."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Write one token of each row; returns the keys and values of whole slots."""
        self.keys[self.rows, :, self.positions] = key_states[:, :, 0]
        self.values[self.rows, :, self.positions] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the length of a slot; how much of it a row has filled, only the positions say."""
        return self.keys.shape[2]

    get_max_length = get_seq_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length and the offset of what is attended to."""
        return self.get_seq_length(), 0


def attend_to_slots(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attend from one token a row. Queries that share a head's keys are multiplied with them as they are, uncopied."""
    rows, heads, _, size = query.shape
    if scaling is None:
        scaling = size**-0.5

    # (rows, heads of keys, queries of each, size)
    grouped = query.reshape(rows, key.shape[1], -1, size)
    scores = grouped @ key.transpose(-1, -2) * scaling
    weights = torch.softmax(scores + attention_mask, dim=-1, dtype=torch.float)
    attended = weights.to(value.dtype) @ value
    return attended.reshape(rows, 1, heads, -1), None


AttentionInterface.register(ATTENTION, attend_to_slots)


class Slots:
    """A cache of fixed size for so many rows, and the graph of a block of steps on it.

    Before a block, ``tokens`` and ``positions`` (rows,) are each row's last token and its place in the slot, ``forced``
    (rows, steps) the tokens that must come (-1: any), ``uniforms`` (rows, steps) the random numbers of the sampling.
    After it, ``chosen`` and ``logprobs`` (rows, steps) are what was chosen.
    """

    def __init__(self, model, rows: int, room: int) -> None:
        device = model.device
        self.rows = rows
        self.room = room

        # Tensors, even single values: a graph reads them again at every replay.
        self.tokens = torch.zeros(rows, dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.last_position = torch.zeros((), dtype=torch.long, device=device)
        self.temperature = torch.zeros((), device=device)

        self.forced = self.tokens.new_full((rows, STEPS), -1)
        self.uniforms = torch.zeros(rows, STEPS, device=device)
        self.chosen = torch.zeros_like(self.forced)
        self.logprobs = torch.zeros_like(self.uniforms)
        self.columns = torch.arange(room, device=device)

        self.layers: list[Any] = []
        for layer in measure_layers(model):
            # Zeros: what is masked out is multiplied by zero, which makes no zero of what is no number.
            no_key = torch.zeros_like(layer.keys)
            no_value = torch.zeros_like(layer.values)
            # One token of one row is repeated over the slots.
            keys = no_key.repeat(rows, 1, room, 1)
            values = no_value.repeat(rows, 1, room, 1)
            self.layers.append(SlotLayer(keys, values, self.positions))
        self.cache = Cache(layers=self.layers)

        self.graph: Any = None
        # Of the weights that the graph reads.
        self.addresses: list[int] = []

    def run_block(self, model) -> None:
        """Let every row go some steps, those of free slots too, without asking for a value: a graph cannot wait."""
        lowest = torch.finfo(model.dtype).min
        with use_attention(model, ATTENTION):
            for step in range(STEPS):
                positions = self.positions[:, None]
                # (rows, room)
                is_ahead = self.columns > positions
                mask = is_ahead.to(model.dtype) * lowest

                output = model(
                    self.tokens[:, None],
                    # The same for all heads and the one query.
                    attention_mask=mask[:, None, None],
                    position_ids=positions,
                    past_key_values=self.cache,
                    **router_arguments(model),
                )
                self.choose_tokens(output.logits[:, -1], step)

    def choose_tokens(self, logits: torch.Tensor, step: int) -> None:
        """Choose each row's next token, greedily at temperature 0, by the loop's own sampling else."""
        # Both ways are computed, since a graph cannot branch.
        divisor = self.temperature.clamp(min=1e-6)
        scaled = logits.float() / divisor
        sampled, logprobs = sample_tokens(scaled, 1.0, self.uniforms[:, step])

        is_greedy = self.temperature == 0
        greedy = logits.argmax(-1)
        chosen = torch.where(is_greedy, greedy, sampled)

        forced = self.forced[:, step]
        tokens = torch.where(forced < 0, chosen, forced)
        # The next step of the graph reads at the same address.
        self.tokens.copy_(tokens)
        self.chosen[:, step] = tokens
        self.logprobs[:, step] = logprobs.masked_fill(is_greedy, 0.0)

        # A block may go past a row's end, but not out of the slot or the model's context.
        following = self.positions + 1
        self.positions.copy_(following.minimum(self.last_position))

    def prepare(self, model) -> None:
        """Record a block on a GPU, where that was not done yet for weights at these addresses."""
        if model.device.type != "cuda":
            return

        weights = chain(model.parameters(), model.buffers())
        addresses = [tensor.data_ptr() for tensor in weights]
        if self.graph is None or addresses != self.addresses:
            self.graph = capture(lambda: self.run_block(model))
            self.addresses = addresses

    def run(self, model) -> None:
        """Run a block: by its graph where there is one."""
        if self.graph is None:
            self.run_block(model)
        else:
            self.graph.replay()

    def write_prompts(
        self,
        slots: Sequence[int],
        places: Sequence[int],
        cache: Any,
        mask: torch.Tensor,
    ) -> None:
        """Copy computed prompts into slots, without their padding.

        Args:
            slots: Where to.
            places: Which rows of the cache, one for each slot.
            cache: Of the prompts, as :func:`pipeline.forward.prefill` returns it.
            mask: Of the prompts (rows, length).
        """
        length = mask.shape[1]
        is_padding = 1 - mask[places]
        # The places of a row's tokens, in their order, and then those of its padding.
        order = is_padding.argsort(dim=1, stable=True)
        # As keys and values are: (rows, heads, length, head size).
        tokens_first = order[:, None, :, None]

        for slot_layer, layer in zip(self.layers, cache.layers, strict=True):
            keys = layer.keys[places]
            slot_layer.keys[slots, :, :length] = keys.take_along_dim(tokens_first, dim=2)
            values = layer.values[places]
            slot_layer.values[slots, :, :length] = values.take_along_dim(tokens_first, dim=2)


def capture(run) -> Any:
    """Return a CUDA graph of what a function does on the GPU, at the addresses where it does it."""
    # The first run, on a stream of its own, allocates and chooses kernels, which must not happen while recording.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


class SlotDecoder(Decoder):
    """Rows that are decoded in slots, a block of tokens each at a time."""

    def __init__(
        self,
        model,
        tokenizer,
        rows: Sequence[Row],
        uniforms,
        settings: DecodingSettings,
        slots: Slots,
    ):
        super().__init__(model, tokenizer, settings)
        self.queue = deque(rows)
        self.slots = slots
        self.placed: list[Row | None] = [None] * slots.rows

        # A block may go past the last token of a row.
        self.uniforms = torch.nn.functional.pad(uniforms, (0, STEPS))

        longest = max(len(row.prompt) for row in rows)
        slots.last_position.fill_(longest + settings.max_new_tokens - 1)
        slots.temperature.fill_(settings.temperature)

    def decode(self) -> None:
        """Fill the sequence of every row."""
        self.slots.prepare(self.model)
        self.fill_slots()
        # Where all rows end with their first token, there is no block.
        while any(self.placed):
            self.set_inputs()
            self.slots.run(self.model)
            self.add_tokens()
            self.fill_slots()

    def fill_slots(self) -> None:
        """Compute the next prompts, as many as there are free slots, and choose the first token of each."""
        free = [slot for slot, row in enumerate(self.placed) if row is None]
        while free and self.queue:
            count = min(len(free), len(self.queue), PREFILL_ROWS)
            rows = [self.queue.popleft() for _ in range(count)]
            prompts = [row.prompt for row in rows]
            cache, mask, logits = prefill(self.model, prompts)

            indices = [row.index for row in rows]
            uniforms = self.uniforms[indices, 0].to(logits.device)
            tokens, logprobs = sample_tokens(logits, self.settings.temperature, uniforms)
            first_tokens = zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
            for row, token, logprob in first_tokens:
                self.add_token(row, token, logprob)

            # A row may end with its first token, and needs no slot then.
            places = [place for place, row in enumerate(rows) if not row.is_done]
            taken = free[: len(places)]
            free = free[len(places) :]
            self.slots.write_prompts(taken, places, cache, mask)
            for slot, place in zip(taken, places, strict=True):
                self.placed[slot] = rows[place]

    def set_inputs(self) -> None:
        """Tell the slots where each row is, which need not be where the last block ended."""
        tokens = []
        positions = []
        forced = []
        indices = []
        steps = []

        for row in self.placed:
            # A free slot goes along with any token; nobody reads what it chooses.
            row = row or Row(index=0, prompt=[], sequence=TokenSequence(ids=[0]))
            ids = row.sequence.ids
            tokens.append(ids[-1])
            positions.append(len(row.prompt) + len(ids) - 1)

            pending = row.pending[:STEPS]
            anything = [-1] * (STEPS - len(pending))
            forced.append(pending + anything)

            indices.append(row.index)
            steps.append(len(ids))

        # (slots, STEPS): the numbers of the tokens that come next.
        columns = torch.tensor(steps)[:, None] + torch.arange(STEPS)
        uniforms = self.uniforms[torch.tensor(indices)[:, None], columns]

        self.slots.tokens.copy_(torch.tensor(tokens))
        self.slots.positions.copy_(torch.tensor(positions))
        self.slots.forced.copy_(torch.tensor(forced))
        self.slots.uniforms.copy_(uniforms)

    def add_tokens(self) -> None:
        """Add what the block chose to each row, up to its end or to a token that a limit puts in another's place."""
        chosen = self.slots.chosen.tolist()
        logprobs = self.slots.logprobs.tolist()
        for slot, row in enumerate(self.placed):
            if row is None:
                continue

            for token, logprob in zip(chosen[slot], logprobs[slot], strict=True):
                added = self.add_token(row, token, logprob)
                # The block went on from the token that it chose.
                if added != token or row.is_done:
                    break

            if row.is_done:
                self.placed[slot] = None


# Slots of models in training, which decode again after the next step, and how many rows were wanted for them.
kept_slots: WeakKeyDictionary[Any, tuple[int, Slots]] = WeakKeyDictionary()


def decode_in_slots(
    model,
    tokenizer,
    rows: Sequence[Row],
    uniforms,
    settings: DecodingSettings,
    keep: bool,
) -> None:
    """Fill the sequence of every row. Where they do not fit the memory, half as many slots are taken.

    Args:
        model: One for which :func:`find_obstacle` finds nothing.
        tokenizer: Of the model.
        rows: At least one; those with long prompts first.
        uniforms: Random numbers in [0, 1), (prompts, max_new_tokens).
        settings: Of the decoding.
        keep: Whether the model is in training, and will decode again after the next step.
    """
    needed = len(rows[0].prompt) + settings.max_new_tokens
    room = -(-needed // ROOM_STEP) * ROOM_STEP
    wanted = choose_size(len(rows), settings.batch_size)

    kept_wanted, slots = kept_slots.pop(model, (0, None))
    # Fewer of them than wanted may be all that fits.
    if slots and (slots.room != room or kept_wanted < wanted):
        slots = None

    if slots:
        size = slots.rows
    else:
        fitting = count_fitting_rows(model, room)
        size = choose_size(len(rows), settings.batch_size, fitting)

    while True:
        missing = [row for row in rows if not row.is_done]
        for row in missing:
            row.restart(settings)

        try:
            slots = slots or Slots(model, size, room)
            SlotDecoder(model, tokenizer, missing, uniforms, settings, slots).decode()
            break
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise

        # Not while the error is handled: it holds on to the tensors of the slots.
        slots = None
        size //= 2
        say(f"decoding: {2 * size} rows at once do not fit the memory; {size} from now on")
        clear_device_cache(garbage_collection=True)

    if keep:
        kept_slots[model] = (wanted, slots)


def choose_size(rows: int, most: int | None, fitting: float = math.inf) -> int:
    """Return how many slots to take: the least of some sizes that holds all rows, or the largest that fits.

    Args:
        rows: To be decoded.
        most: The most of them at a time; None for the largest of the sizes.
        fitting: How many fit the memory.
    """
    most = most or SIZES[-1]
    sizes = [size for size in SIZES if size < most]
    sizes.append(most)

    # The smallest is tried in any case.
    fitting_sizes = [size for size in sizes if size <= fitting] or sizes[:1]
    for size in fitting_sizes:
        if size >= rows:
            return size
    return fitting_sizes[-1]


def count_fitting_rows(model, room: int) -> float:
    """Return how many slots of so many tokens fit our share of the free memory of a GPU."""
    if model.device.type != "cuda":
        return math.inf

    token_bytes = 0
    for layer in measure_layers(model):
        token_bytes += layer.keys.nbytes + layer.values.nbytes

    vocabulary = model.config.get_text_config().vocab_size
    row_bytes = room * token_bytes + vocabulary * BYTES_PER_LOGIT

    # What torch has reserved and does not use is free, too.
    free, _ = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return MEMORY_SHARE * free // row_bytes


def measure_layers(model) -> list[Any]:
    """Return the layers of a cache that holds one token."""
    return prefill(model, [[0]])[0].layers


def find_obstacle(model) -> str | None:
    """Return why a model cannot decode in slots; None where it can."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    rope = getattr(config, "rope_parameters", None) or {}

    if set(layers) != {"full_attention"} or has_attention_window(config):
        return "not all of its layers attend to all tokens"

    # What transformers does not call compilable asks for values on the way, which a graph cannot.
    if not (model._supports_attention_backend and model._can_compile_fullgraph):
        return "transformers does not let others attend for it"

    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, not sdpa"

    if rope.get("rope_type") in ("dynamic", "longrope"):
        return "its position embedding depends on the longest row"

    if getattr(model, "is_quantized", False):
        return "its weights are quantized"
    return "its weights are sharded" if processes.find_sharded_modules(model) else None


# Once for each reason: a training decodes at every step.
say_once = functools.cache(say)


def should_use_slots(model, settings: DecodingSettings) -> bool:
    """Return whether to decode in slots: on a GPU, or where it is asked for, if the model can."""
    is_wanted = settings.slots
    if is_wanted is None:
        is_wanted = model.device.type == "cuda"
    if not is_wanted:
        return False

    if obstacle := find_obstacle(model):
        say_once(f"decoding: one token after the other, without a CUDA graph: {obstacle}")
    return not obstacle
