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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": read_commit(),
        "hardware": {
            "processor": read_processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "memory_gib": round(memory / BYTES_A_GIB, 1),
        },
    }


def read_processor() -> str:
    """Return the processor's name, which Linux alone says in full."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []

    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def read_commit() -> str | None:
    """Return the project's git commit, with "+" where tracked files differ from it; None outside a checkout."""
    # No tag matches, so the name is the commit itself.
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None
