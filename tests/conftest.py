"""What more than one file of tests needs: a tiny model with random weights, and one finished run on nano."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Models this small are slower on two threads than on one, where anything else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
# Little enough for a test; the rest is the cpu profile's and nano's own.
SMALL = [
    "rl.steps=4",
    "rl.eval_every=2",
    "adaptive.steps=4",
    "adaptive.eval_every=2",
    "rl.dev=40",
    "adaptive.dev=40",
    "adaptive.arithmetic=40",
    "adaptive.logic=40",
]
LIMIT = 100
OPTIONS = ["--base", "nano", "--profile", "cpu", "--limit", str(LIMIT), *(x for s in SMALL for x in ("--set", s))]


def ladder(runs: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command; one of the pipeline's with these options."""
    return subprocess.run(
        [sys.executable, "-m", *command, "--runs", str(runs), *OPTIONS] if command[0] == "pipeline" else command,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run of all five stages, with real training; to be copied before it is written to."""
    runs = tmp_path_factory.mktemp("runs")
    done = ladder(runs, "pipeline", "all")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and done.stdout.endswith("make ask (a chat with the stages).\n")
    return runs


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer): nano's tokenizer on a few texts, and an untrained Llama of 2 layers with grouped heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline import prompts
    from pipeline.nano import tokenizer_of

    tokenizer = tokenizer_of([*prompts.INSTRUCTIONS.values(), "What is 25 * 4 + 8?", "25 * 4 = 100\n\\boxed{108}"])
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
