"""``python -m pipeline check``: whether a base will do, before its weights are fetched where the hub allows it.

Each line is one thing that otherwise fails late and in disguise. What is trained must be what is generated, token for
token; what does not fit must not be begun.
"""

import contextlib
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import UserError
from pipeline.config import count_context_tokens
from pipeline.models.download import KNOWN_BASES, TOKENIZER_FILES, HubError, download_from_hub, get_cache_folder
from pipeline.models.load import (
    SAMPLE_PROBLEM,
    check_layers,
    check_tokenizer,
    check_vocabulary,
    get_context_tokens,
    is_hub_id,
    load_config,
    load_tokenizer,
    load_weights,
    resolve,
    resolve_precision,
)
from pipeline.progress import printable
from pipeline.prompts import OUR_TEMPLATES, encode_forced_opening, encode_prompt, encode_text, find_end_of_turn
from pipeline.provenance import measure_memory
from pipeline.settings import Recipe

GIB = 2**30

# Bytes a weight, with the scales of a quantized one.
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.1, "nf4": 0.6}

# What a trained weight takes: itself, its gradient and two moments, in fp32.
TRAINED_WEIGHT_BYTES = 16

LIBRARIES_GIB = 1.0

SHOWN_PROMPT_INDENT = " " * 10


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

    # What is here already need not be asked for.
    cached = get_cache_folder() / base.replace("/", "--")
    is_here = cached.is_dir() or Path(base).exists()
    if hub and is_hub_id(hub) and not is_here:
        with contextlib.suppress(HubError), tempfile.TemporaryDirectory() as aside:
            # Messages name the folder.
            folder = Path(aside) / base.replace("/", "--")
            info = download_from_hub(hub, base, folder, TOKENIZER_FILES)
            stated = getattr(info.card_data, "license", None)
            return [
                Finding("licence", printable(str(stated or "not stated"))),
                # Its files are here, so its terms were accepted.
                Finding("gated", str(info.gated or "no")),
                *find_all(folder, recipe),
            ]

    # What the hub does not give comes from elsewhere, or is refused.
    return [Finding("licence", licence), *find_all(resolve(base), recipe)]


def find_all(folder: Path, recipe: Recipe) -> list[Finding]:
    """Return what the configuration and the tokenizer in a folder say."""
    config = load_config(folder)
    return [*check_text(folder, config, recipe), *check_model(folder, config, recipe)]


def check_text(folder: Path, config, recipe: Recipe) -> Iterator[Finding]:
    """Whether what is trained and asked survives the tokenizer and fits the context."""
    needed = count_context_tokens(recipe)
    context = get_context_tokens(config)
    is_enough = context is None or context >= needed
    yield Finding("context", f"{context or 'not limited'} tokens, {needed} needed", is_enough)

    try:
        tokenizer = load_tokenizer(folder)
        check_tokenizer(tokenizer, folder.name)
        check_vocabulary(config, tokenizer, folder.name)
        check_layers(config, folder.name)
    except UserError as error:
        yield Finding("tokenizer", str(error), good=False)
        return

    end = repr(tokenizer.eos_token)
    other = find_end_of_turn(tokenizer)
    if other not in (None, tokenizer.eos_token_id):
        end += f", or with its template's {tokenizer.convert_ids_to_tokens(other)!r}"
    yield Finding("tokenizer", f"gives the answer format back; a turn ends with {end}")
    is_ours = tokenizer.chat_template in OUR_TEMPLATES
    opening = encode_forced_opening(tokenizer)
    opens = ", which opens the thought itself" if opening else ""
    yield Finding("template", "none of its own; ours" if is_ours else f"its own{opens}")

    # One token a digit makes sums easier.
    digits = encode_text(tokenizer, "1234567")
    yield Finding("digits", f"1234567 is {len(digits)} token(s)")

    # Decoded from the ids, so it shows what the tokenizer makes of the text.
    prompt = encode_prompt(tokenizer, SAMPLE_PROBLEM, "think")
    text = printable(tokenizer.decode(prompt + opening))
    yield Finding("prompt", f"{len(prompt)} tokens, for example:\n{textwrap.indent(text, SHOWN_PROMPT_INDENT)}")


# Model


def check_model(folder: Path, config, recipe: Recipe) -> Iterator[Finding]:
    """Whether the weights are whole, what LoRA finds to train, and whether sft fits the memory."""
    # Weights that are not whole would be random ones.
    try:
        model = _build_on_meta(folder, config)
    except UserError as error:
        yield Finding("weights", str(error), good=False)
        return

    layers = _find_linear_layers(model)
    # The same names come back in every block.
    counts = Counter(name.rpartition(".")[2] for name in layers)
    targets = ", ".join(f"{name} x {count}" for name, count in counts.items())
    yield Finding("LoRA on", targets or "nothing: no linear layer was found", bool(targets))

    parameters = sum(weights.numel() for weights in model.parameters())
    precision = resolve_precision(recipe.base.load)
    yield Finding("parameters", f"{parameters / 1e6:.1f} million, loaded as {precision}")

    # What the rows of a batch take is not counted. A GPU measures it later (memory.py); on a CPU nothing does.
    # LoRA adds a row and a column of weights to a layer for each rank.
    edges = sum(sum(layer.weight.shape) for layer in layers.values())
    trained = recipe.stages["sft"].lora["r"] * edges
    taken = parameters * WEIGHT_BYTES[precision] + trained * TRAINED_WEIGHT_BYTES
    needed = taken / GIB + LIBRARIES_GIB
    available = _measure_memory()
    yield Finding("memory", f"sft takes {needed:.1f} GiB of {available:.1f}, and its batches", needed <= available)


def check_lora(folder: Path, lora: Mapping[str, Any]) -> None:
    """Raise UserError where a base has none of the layers that ``sft.lora`` names."""
    # Building the model takes a second, and every base has linear layers.
    if lora["target_modules"] == "all-linear":
        return

    from peft import LoraConfig, get_peft_model

    model = _build_on_meta(folder, load_config(folder))
    try:
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora), low_cpu_mem_usage=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"sft.lora: {reason}; `python -m pipeline check` names the layers of a base") from None


def _build_on_meta(folder: Path, config) -> Any:
    """The model on the meta device, where weights take no memory; from its files where they are here."""
    import torch
    from transformers import AutoModelForCausalLM

    if list(folder.glob("*.safetensors")):
        return load_weights(folder, device_map="meta")

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        # Such as an encoder, which writes no text.
        reason = " ".join(str(error).split())
        raise UserError(f"no causal language model: {reason[:200]}") from None


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
    return measure_memory()


def print_findings(base: str, findings: Sequence[Finding]) -> bool:
    """Print findings as a table; returns whether a run can go on."""
    width = max(len(finding.name) for finding in findings)

    print(f"{base}:")
    for finding in findings:
        mark = "ok" if finding.good else "NO"
        print(f"  {mark}  {finding.name.ljust(width)}  {finding.text}")
    return all(finding.good for finding in findings)
