"""What more than one file of tests needs: a tiny model with random weights, and one finished run of all stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Models this small are slower on two threads than on one where anything else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
BASE = "nano-tiny"
OPTIONS = ("--base", BASE, "--profile", "cpu", "--limit", "40")


def run_ladder(runs: Path, *command: str) -> subprocess.CompletedProcess:
    """Run ``python -m pipeline COMMAND`` on the tiny base, with its results in ``runs``."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *command, "--runs", str(runs), *OPTIONS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def ladder():
    """The function that runs a command of the pipeline on the tiny base: ladder(runs, "table")."""
    return run_ladder


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder ``runs`` of a finished run of all five stages, with real training; copy it before you write to it."""
    runs = tmp_path_factory.mktemp("runs")
    done = run_ladder(runs, "all")

    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return runs


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer): nano's tokenizer on a few texts, and an untrained Llama of 2 layers with grouped heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline import prompts
    from pipeline.models.nano import train_tokenizer

    texts = [*prompts.INSTRUCTIONS.values(), "What is 25 * 4 + 8?", "25 * 4 = 100\n\\boxed{108}"]
    tokenizer = train_tokenizer(texts)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval(), tokenizer
