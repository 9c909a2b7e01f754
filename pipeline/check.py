"""``python -m pipeline check``: whether a base will do, before its weights are fetched where the hub's files allow it.

Each line is one thing that fails late and in disguise otherwise. What is trained must be what is generated, token for
token; what cannot be told apart must not be counted; what does not fit must not be begun.
"""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.build import load
from data.records import BadInput
from pipeline import base
from pipeline.prompts import DIRECT, END_THINK, PLAIN_TEMPLATE, THINK, encode, messages, prompt_ids, thinking_answer
from pipeline.recipe import Recipe, longest

BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.1, "nf4": 0.6}  # a weight, with the scales of a quantized one
SPARE = 1.0  # GiB for the libraries themselves


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether a run can go on with it."""

    name: str
    found: str
    good: bool = True


def check(name: str, recipe: Recipe) -> list[Finding]:
    """What a base's files say of it, without its weights where it comes from the hub."""
    with tempfile.TemporaryDirectory() as aside:
        folder, known = _files(name, Path(aside))
        return [*known, *findings(folder, recipe)]


def _files(name: str, aside: Path) -> tuple[Path, list[Finding]]:
    """The folder with a base's config and tokenizer, and what the hub says of it."""
    cached = base.cache_dir() / (name if name in base.BASES else name.replace("/", "--"))
    hub = base.BASES[name].hub if name in base.BASES else name
    ours = base.BASES[name].licence if name in base.BASES else None
    local = cached.is_dir() or Path(name).exists() or os.environ.get("HF_HUB_OFFLINE") == "1"
    if hub is None or hub.count("/") != 1 or local:
        return base.resolve(name), [Finding("licence", ours or "not told by a local folder: see where it came from")]
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        info = HfApi().model_info(hub, timeout=10)
        base.check_weights(name, [file.rfilename for file in info.siblings or ()])
        told = [Finding("licence", str(getattr(info.card_data, "license", None) or "not told"))]
        told.append(Finding("gated", str(info.gated or "no"), good=not info.gated))
        wanted = ["*.json", "*.jinja", "tokenizer*", "vocab*", "merges*"]
        snapshot_download(hub, revision=info.sha, local_dir=aside, allow_patterns=wanted)
    except GatedRepoError:
        raise base.gated(name) from None
    except (HfHubHTTPError, httpx.TransportError, OSError) as error:
        if name in base.BASES and base.BASES[name].wheel:
            return base.resolve(name), [Finding("licence", ours or "")]
        raise BadInput(f"base {name}: the hub does not give it ({type(error).__name__}); check the name") from None
    return aside, told


def findings(folder: Path, recipe: Recipe) -> list[Finding]:
    """What the config and tokenizer in a folder say."""
    from transformers import AutoConfig

    try:
        tokenizer = base.load_tokenizer(folder)
    except BadInput as error:
        return [Finding("end of turn", str(error), good=False)]
    config = AutoConfig.from_pretrained(folder)
    return [*_tokens(tokenizer), *_context(config, recipe), *_model(config, recipe)]


def _tokens(tokenizer) -> Iterator[Finding]:
    own = tokenizer.chat_template == PLAIN_TEMPLATE
    yield Finding("template", "none of its own; ours" if own else "its own")
    end, token = encode(tokenizer, tokenizer.eos_token), tokenizer.eos_token
    yield Finding("end of turn", f"{token!r}, {len(end)} token(s)", end == [tokenizer.eos_token_id])
    [problem] = load("arithmetic_v1", "train")[:1]
    answer = thinking_answer(problem.rationale or "", problem.answer)
    back = tokenizer.decode(encode(tokenizer, answer))
    yield Finding(
        "answer format", "comes back unchanged" if back == answer else f"comes back as {back!r}", back == answer
    )
    before = prompt_ids(tokenizer, problem, "think")
    chat = [*messages(problem, "think"), {"role": "assistant", "content": answer}]
    try:
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        same = encode(tokenizer, whole)[: len(before)] == before
        said = "the template's, token for token" if same else "not what its template writes of a whole chat; ours holds"
    except Exception as error:  # whatever a template raises
        said = f"its template takes no system role ({type(error).__name__}); the instruction goes into the question"
    yield Finding("prompt", said)
    tags = [len(encode(tokenizer, tag)) for tag in (THINK, END_THINK)]
    yield Finding("think tags", f"{tags[0]} and {tags[1]} token(s); {DIRECT.strip()} {len(encode(tokenizer, DIRECT))}")
    digits = len(encode(tokenizer, "1234567"))
    yield Finding("digits", "one token each" if digits >= 7 else f"1234567 takes {digits} tokens: sums are harder")


def _context(config, recipe: Recipe) -> Iterator[Finding]:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    need = longest(recipe)
    yield Finding("context", f"{context or 'not limited'} tokens, {need} needed", context is None or context >= need)


def _model(config, recipe: Recipe) -> Iterator[Finding]:
    import torch
    from transformers import AutoModelForCausalLM, Conv1D

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    targets = Counter(
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    )
    told = ", ".join(f"{name} x {n}" for name, n in targets.items())
    yield Finding("LoRA on", told or "nothing: no linear layer was found", bool(targets))
    count = sum(p.numel() for p in model.parameters())
    held = base.held_as(recipe.base.load)
    text = config.get_text_config()
    tokens = recipe.sft.batch_size * (recipe.eval.max_tokens + 64)
    trained = sum(
        recipe.sft.lora_rank * sum(module.weight.shape)
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    )
    gib = {
        "weights": count * BYTES[held],
        "optimiser": trained * 4 * 4,  # weight, gradient and two moments, fp32
        # What a layer keeps for its backward: 34 bytes a token and width in bf16 (V. Korthikanti et al. 2022, arXiv
        # 2205.05198, eq. 2, without attention's scores, which are not kept).
        "activations": tokens * text.hidden_size * text.num_hidden_layers * (68 if held == "fp32" else 34),
        "logits": recipe.sft.batch_size * recipe.eval.max_tokens * text.vocab_size * 4 * 3,
    }
    total = sum(gib.values()) / 2**30 + SPARE
    there = _memory()
    parts = ", ".join(f"{name} {value / 2**30:.1f}" for name, value in gib.items())
    yield Finding("parameters", f"{count / 1e6:.1f} million, held as {held}")
    yield Finding("memory", f"about {total:.1f} GiB ({parts}) of {there:.1f}", total <= there)


def _memory() -> float:
    """GiB of the card, or of the machine where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def show(name: str, found: list[Finding]) -> bool:
    """Print the findings as a table; returns whether a run can go on."""
    width = max(len(each.name) for each in found)
    print(f"{name}:")
    for each in found:
        print(f"  {'ok ' if each.good else 'NO '} {each.name.ljust(width)}  {each.found}")
    return all(each.good for each in found)
