"""The model's own passes: prompts into a cache, the log-probabilities of a text, an adapter merged for a while."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from transformers.cache_utils import Cache, DynamicLayer

# Cache room is grown by so many tokens at a time.
EXTRA_ROOM = 64


class ReservedLayer(DynamicLayer):
    """A cache layer that writes new tokens into reserved room; ``keys`` and ``values`` are views of it.

    All are of shape (rows, heads, tokens, head size).
    """

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states, value_states, *args, **kwargs):
        """Add the keys and values of new tokens; returns those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys = key_states[..., :0, :]
            self.values = value_states[..., :0, :]

        old = self.keys.shape[-2]
        new = old + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < new:
            # What transformers does at every token is done here at every 64th.
            grown_keys = _grow(self.keys, key_states)
            grown_values = _grow(self.values, value_states)
            self.room = (grown_keys, grown_values)

        room_keys, room_values = self.room
        room_keys[..., old:new, :] = key_states
        room_values[..., old:new, :] = value_states

        self.keys = room_keys[..., :new, :]
        self.values = room_values[..., :new, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        # The keys are copies now, no views of it.
        self.room = None


def _grow(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Room for the old states, the new ones and some more, with the old ones in it."""
    rows, heads, added, size = new.shape
    length = old.shape[-2]
    enough = length + added + EXTRA_ROOM
    room = new.new_empty(rows, heads, enough, size)
    room[..., :length, :] = old
    return room


def prefill(model, prompts: list[list[int]]) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """Compute prompts: equal ones once, and once the prefix that all share.

    Returns:
        The cache, the attention mask (rows, length), and the last logits (rows, vocabulary).
    """
    # Layout of a row: shared prefix, padding, its own tokens.
    unique = sorted({tuple(prompt) for prompt in prompts})
    device = model.device
    cache = Cache(layer_class_to_replicate=ReservedLayer)

    # A window of attention is counted over padding too, so nothing may stand before the padding.
    config = model.config.get_text_config()
    shared = 0 if has_attention_window(config) else count_common_prefix(unique)
    if shared:
        prefix = torch.tensor([unique[0][:shared]], device=device)
        model(prefix, past_key_values=cache, logits_to_keep=1, **router_arguments(model))
        # Its one row is taken for every prompt.
        first_row = torch.zeros(len(unique), dtype=torch.long, device=device)
        cache.batch_select_indices(first_row)

    longest = max(map(len, unique))
    width = longest - shared
    ids = torch.zeros(len(unique), width, dtype=torch.long)
    mask = torch.ones(len(unique), longest, dtype=torch.long)

    for row, prompt in enumerate(unique):
        own = prompt[shared:]
        padding = width - len(own)
        ids[row, padding:] = torch.tensor(own)
        mask[row, shared : shared + padding] = 0

    mask = mask.to(device)
    positions = mask.cumsum(-1) - 1
    # Padding before the first token would be at -1.
    positions = positions.clamp(min=0)
    output = model(
        ids.to(device),
        attention_mask=mask,
        position_ids=positions[:, shared:],
        past_key_values=cache,
        # An index copies. Over a slice of the hidden states, bf16 would expand the head's weight for every row.
        logits_to_keep=torch.tensor([width - 1], device=device),
        **router_arguments(model),
    )

    # From here on every row goes its own way.
    place_of = {prompt: place for place, prompt in enumerate(unique)}
    places = [place_of[tuple(prompt)] for prompt in prompts]
    rows = torch.tensor(places, device=device)
    cache.batch_select_indices(rows)
    return cache, mask[rows], output.logits[rows, -1]


def count_common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many first tokens all prompts share, leaving each at least one of its own."""
    # Despite its name it takes any sequences.
    shared = len(os.path.commonprefix(prompts))
    shortest = min(map(len, prompts))
    return min(shared, shortest - 1)


def has_attention_window(config) -> bool:
    """Whether some layer attends to the last tokens only (Gemma 3, Mistral)."""
    if layer_types := getattr(config, "layer_types", None):
        return "sliding_attention" in layer_types

    return getattr(config, "sliding_window", None) is not None


def router_arguments(model) -> dict[str, bool]:
    """Return what a mixture of experts must be called with; nothing for other models.

    Its balance loss, which TRL's SFT switches on, is not defined where a call holds only part of a sequence.
    """
    if not hasattr(model.config, "output_router_logits"):
        return {}
    return {"output_router_logits": False}


@contextlib.contextmanager
def merge_adapter(model) -> Iterator[None]:
    """Add the adapter to the weights for as long as the model only decodes: a token then costs what it costs the base.

    The weights are put back bit for bit. Quantized weights, to which nothing can be added exactly, are left alone.
    """
    layers: list[Any] = []
    for module in model.modules():
        is_applied = isinstance(module, LoraLinear) and not module.disable_adapters
        # What is merged already stays merged.
        if is_applied and not module.merged:
            layers.append(module)

    # To subtract the adapter again would leave rounding errors.
    weights = [layer.get_base_layer().weight.data for layer in layers]
    originals = [weight.clone() for weight in weights]
    try:
        # PEFT adds in place, where a CUDA graph reads, and an adapter in fp32 to weights in bf16 with one rounding.
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight, original in zip(layers, weights, originals, strict=True):
            layer.get_base_layer().weight.data = weight.copy_(original)
            layer.merged_adapters.clear()


@contextlib.contextmanager
def use_attention(model, name: str) -> Iterator[None]:
    """Let a model attend by another implementation of transformers for a while."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def token_logprobs(
    model,
    prompt: Sequence[int],
    ids: Sequence[int],
    temperature: float = 1.0,
) -> torch.Tensor:
    """Return the log-probabilities (nats, (len(ids),), on the CPU) that a model gives ``ids`` after ``prompt``."""
    whole = torch.tensor([[*prompt, *ids]], device=model.device)
    logits = model(whole).logits[0]
    # The logits at a token say what comes after it.
    logits = logits[len(prompt) - 1 : -1].float().cpu()

    logprobs = torch.log_softmax(logits / temperature, -1)
    wanted = torch.tensor(ids)[:, None]
    return logprobs.gather(1, wanted)[:, 0]
