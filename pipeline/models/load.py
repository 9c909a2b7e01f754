"""From the name of a base to its folder, its tokenizer and its model.

A base is a known name, a hub id, a folder that ``save_pretrained`` wrote, or a GGUF file. The folder holds safetensors,
whatever the base was; :mod:`pipeline.models.download` makes it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from data.files import UserError, read_json, sha256_file, suggest, write_text
from data.problem import Problem
from pipeline import processes
from pipeline.models.download import (
    KNOWN_BASES,
    KnownBase,
    check_weight_files,
    convert_gguf,
    fetch_base,
    get_cache_folder,
    make_once,
)
from pipeline.progress import printable
from pipeline.prompts import (
    BEGUN_TEMPLATE,
    PLAIN_TEMPLATE,
    build_messages,
    encode_text,
    format_thinking_answer,
    render_prompt,
)
from pipeline.provenance import read_cpuinfo

# What a fingerprint covers: weights, configuration, chat template and tokenizer.
FINGERPRINT_SUFFIXES = (".safetensors", ".json", ".jinja", ".model")

# What a file of weights holds where Git LFS has not fetched it.
LFS_POINTER = b"version https://git-lfs"

# What a base is tried with.
SAMPLE_PROBLEM = Problem("sample", "What is 25 * 4?", "100", "number")

# CPUs that compute in bf16: SFT and decoding were measured 1.5 times as fast there as in fp32.
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}

QUANTIZATION: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
    "int8": {"load_in_8bit": True},
}


# Names


def base_folder_name(base: str) -> str:
    """Return the base's name as one path component, for ``runs/BASE``."""
    if base in KNOWN_BASES:
        return base
    if base.endswith(".gguf"):
        return Path(base).stem

    # A base named "../base" must not lead out of runs/.
    path = Path(os.path.normpath(base))
    if ".." in path.parts:
        return path.resolve().name
    return str(path).strip("/").replace("/", "--")


def is_hub_id(base: str) -> bool:
    """Return whether a name can be an OWNER/NAME of the hub."""
    return base.count("/") == 1 and not base.startswith((".", "/", "~"))


def resolve(base: str) -> Path:
    """Return the folder that holds a base's safetensors; it is fetched, made or converted first where need be.

    Raises:
        UserError: the base is unknown, cannot be fetched, or has no safetensors.
    """
    check_name(base)
    # A known name goes before a folder of that name, wherever the command is run.
    if base in KNOWN_BASES:
        return _resolve_known(base)

    path = Path(base)
    if path.is_dir():
        return _check_folder(path, base)

    if base.endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"base {base}: no such file; check the path")
        # Two files may have the same name.
        name = f"{path.stem}-{sha256_file(path)[:12]}"
        return make_once(name, lambda folder: convert_gguf(path, folder))

    known = KnownBase(hub=base, licence="see its page")
    return make_once(base.replace("/", "--"), lambda folder: fetch_base(known, base, folder))


def check_name(base: str) -> None:
    """Raise UserError where a name can be no base; nothing is fetched or made."""
    is_there = base in KNOWN_BASES or Path(base).is_dir()
    if not (is_there or base.endswith(".gguf") or is_hub_id(base)):
        raise UserError(
            f"base {base!r} is unknown; {suggest(base, KNOWN_BASES)}, or a hub id, a folder or a .gguf file"
        )


def _resolve_known(base: str) -> Path:
    known = KNOWN_BASES[base]
    if known.hub:
        return make_once(base, lambda folder: fetch_base(known, base, folder))

    # The data sets that nano needs take a second to import.
    from pipeline.models.nano import PRESETS, hash_preset, pretrain

    preset = PRESETS[base]
    return make_once(f"{base}-{hash_preset(preset)}", lambda folder: pretrain(preset, folder))


def _check_folder(path: Path, base: str) -> Path:
    if not (path / "config.json").is_file():
        raise UserError(f"base {base}: the folder has no config.json; give a folder that save_pretrained wrote")

    check_weight_files(base, [file.name for file in path.iterdir()])
    check_shards(path, base)
    return path


def check_shards(folder: Path, base: str) -> None:
    """Refuse a base with a file of weights that is missing, cut, or only a pointer; their headers are read, no more."""
    from safetensors import SafetensorError, safe_open

    # An index may name a file that is not there.
    files = set(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        files |= {folder / name for name in read_json(index).get("weight_map", {}).values()}

    for file in sorted(files):
        if not file.is_file():
            raise UserError(f"base {base}: {file.name} is missing, which its index names; fetch it again")
        with open(file, "rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"base {base}: {file.name} is a pointer of Git LFS; run `git lfs pull` in its folder")
        try:
            # It compares the length of the file with what its header says.
            safe_open(file, "pt")
        except SafetensorError as error:
            raise UserError(f"base {base}: {file.name} is cut or damaged ({error}); fetch it again") from None


def fingerprint(folder: Path) -> str:
    """Return one sha256 over a base's weights and tokenizer; it is computed once and kept in the cache."""
    files = sorted(path for path in folder.iterdir() if path.suffix in FINGERPRINT_SUFFIXES)

    # Hashing the weights takes seconds, so the result is kept under what the file system says of them.
    stamps = []
    for path in files:
        status = path.stat()
        # An archive may set the time of the last change, but not that of the file's arrival here.
        stamps.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n")
    name = hashlib.sha256("".join(stamps).encode()).hexdigest()[:16]

    cached = get_cache_folder() / "fingerprints" / name
    if not cached.is_file():
        lines = [f"{path.name} {sha256_file(path)}\n" for path in files]
        write_text(cached, hashlib.sha256("".join(lines).encode()).hexdigest())
    return cached.read_text()


# Models


def resolve_precision(load: str) -> str:
    """Return how weights are loaded on this machine: ``base.load`` of the recipe, or what "auto" stands for here.

    Auto is bf16 where the machine computes in it, which newer GPUs and some CPUs do, else fp32.
    """
    if load != "auto":
        return load

    if processes.count_gpus():
        import torch

        # Older ones only imitate it, slowly.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Read without torch, which `status` does not need otherwise.
        flags = set(read_cpuinfo().split())
        has_bf16 = bool(flags & BF16_FLAGS)
    return "bf16" if has_bf16 else "fp32"


def load_part(loader: Any, folder: Path, what: str, **options: Any) -> Any:
    """Return what ``from_pretrained`` of a class of transformers makes of a folder; it runs no code that lies there.

    Raises:
        UserError: it cannot be made of it.
    """
    name = folder.name
    try:
        return loader.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:
        # The libraries raise nearly anything over a file that they cannot read; a full memory is another matter.
        if isinstance(error, (RuntimeError, MemoryError)):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"base {name}: its {what} needs code of its own, which is not run; take another base"
            ) from None
        # A file of the base may be quoted in it.
        reason = printable(" ".join(str(error).split())[:120])
        raise UserError(f"base {name}: it has no {what} that can be loaded ({reason}); take another base") from None


def load_config(folder: Path) -> Any:
    """Return a base's configuration."""
    from transformers import AutoConfig

    return load_part(AutoConfig, folder, "configuration")


def load_weights(folder: Path, **options: Any) -> Any:
    """Return a base's model; ``options`` are those of ``from_pretrained``.

    Raises:
        UserError: weights are missing, or of another shape than the configuration says.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # The refusal below says what transformers would warn of.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        # A missing weight, or one of another shape, would be a random one.
        model, info = load_part(
            AutoModelForCausalLM, folder, "model", output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    finally:
        logging.set_verbosity(verbosity)

    absent = list(info["missing_keys"])
    for key, *_ in info["mismatched_keys"]:
        absent.append(key)

    if absent:
        raise UserError(
            f"base {folder.name}: {len(absent)} of its weights are missing or of another shape ({min(absent)}, …); "
            f"delete {folder} and fetch it again, or take another base"
        )
    return model


def load_tokenizer(folder: Path) -> Any:
    """Return a base's tokenizer, with one of our chat templates where it has none, and a padding token."""
    from transformers import AutoTokenizer

    tokenizer = load_part(AutoTokenizer, folder, "tokenizer")
    if not tokenizer.chat_template:
        is_begun = tokenizer("-")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = BEGUN_TEMPLATE if is_begun else PLAIN_TEMPLATE

    if tokenizer.eos_token_id is None:
        raise UserError(f"base {folder.name}: its tokenizer has no end-of-turn token; set eos_token in its config")
    # Padding is masked everywhere, so any token will do.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path, adapter: Path | None = None, trainable: bool = False, load: str = "auto"
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a base.

    Args:
        folder: The base's, as :func:`resolve` gives it.
        adapter: A LoRA adapter that is put on it.
        trainable: Whether the adapter can be trained.
        load: auto, fp32, bf16, nf4 or int8.
    """
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

    # With torch 2.11 cuDNN's attention plans anew for each shape, and every step of decoding has a new one
    # (docs/machines.md).
    torch.backends.cuda.enable_cudnn_sdp(False)
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    check_vocabulary(config, tokenizer, folder.name)
    precision = resolve_precision(load)

    quantization = None
    if precision in QUANTIZATION:
        quantization = BitsAndBytesConfig(**QUANTIZATION[precision])

    model = load_weights(
        folder,
        dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
        device_map={"": processes.get_state().device} if torch.cuda.is_available() else None,
        quantization_config=quantization,
    )
    _avoid_packed_rows(model)

    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    if not trainable:
        model.eval()
    return model, tokenizer


def _avoid_packed_rows(model) -> None:
    """Switch off a kernel of bitsandbytes for AVX512-BF16 that fails on rows that are no whole blocks of 64."""
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.in_features % 64:
            module.support_avx512bf16_for_cpu = False


# Checks


def check_base(name: str, folder: Path, needed_tokens: int) -> None:
    """Refuse a base whose tokenizer, context or layers will not do for a run."""
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, name)
    check_vocabulary(config, tokenizer, name)
    check_layers(config, name)

    context = get_context_tokens(config)
    if context is not None and context < needed_tokens:
        raise UserError(
            f"base {name}: its context of {context} tokens is below the {needed_tokens} needed; "
            "lower eval.generation.max_new_tokens"
        )


def check_layers(config, name: str) -> None:
    """Refuse a base with layers that our decoding has no cache for."""
    text_config = config.get_text_config()
    kinds = getattr(text_config, "layer_types", None) or []
    others = sorted({*kinds} - {"full_attention", "sliding_attention", "chunked_attention"})
    if others:
        raise UserError(
            f"base {name}: it has layers of another kind than attention ({', '.join(others)}); take another"
        )


def get_context_tokens(config) -> int | None:
    """Return the tokens of a model's context; None where its configuration sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_vocabulary(config, tokenizer, name: str) -> None:
    """Refuse a tokenizer that gives ids which the model does not know."""
    rows = config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"base {name}: its tokenizer has {len(tokenizer)} tokens, its embedding {rows} rows; take the tokenizer "
            "that belongs to it, or resize the embedding in transformers"
        )


def check_tokenizer(tokenizer, name: str) -> None:
    """Refuse a tokenizer that the answer format or the end of turn does not survive, or that writes no prompt."""
    # Some tokenizers change spaces and line breaks.
    answer = format_thinking_answer("25 * 4 = 100", "100")
    if tokenizer.decode(encode_text(tokenizer, answer)) != answer:
        raise UserError(f"base {name}: its tokenizer does not give the answer format back unchanged; take another base")

    # Decoding stops at one token, and training rows end with it.
    end = tokenizer.eos_token
    if encode_text(tokenizer, end) != [tokenizer.eos_token_id]:
        raise UserError(f"base {name}: its end-of-turn token {end!r} is not one token; fix eos_token in its config")

    messages = build_messages(SAMPLE_PROBLEM, "think")
    try:
        render_prompt(tokenizer, messages, "think")
    except UserError as error:
        raise UserError(f"base {name}: {error}") from None
