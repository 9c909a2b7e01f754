"""What a result was made on: versions, the project's commit and the hardware."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "mpmath")
BYTES_A_GIB = 2**30


def describe_machine() -> dict[str, Any]:
    """Return the versions, the commit and the hardware of this process."""
    # Slow to import, and `status` reads without it.
    import torch

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": read_commit(),
        "hardware": {
            "processor": read_processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "memory_gib": round(measure_memory(), 1),
        },
    }


def measure_memory() -> float:
    """Return the machine's memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / BYTES_A_GIB


def read_cpuinfo() -> str:
    """Return what Linux says of the processor; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.is_file() else ""


def read_processor() -> str:
    """Return the processor's name, which Linux alone says in full."""
    for line in read_cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def read_commit() -> str | None:
    """Return the project's git commit, with "+" where tracked files differ from it; None outside a checkout."""
    # No tag matches, so the name is the commit itself.
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None
