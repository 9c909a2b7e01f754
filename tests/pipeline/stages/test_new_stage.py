"""A new stage is one file, one line in the list and one recipe; all else (table, status, gate, checks) follows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.datasets import load
from data.problem import write_records

STAGE = '''
"""A toy stage: the base with a random adapter."""

from data.dataset_spec import DatasetSpec
from pipeline.settings import Settings
from pipeline.stages.stage import Stage


class ToySettings(Settings):
    problems: list[DatasetSpec]
    dev: int
    rank: int


def train(context):
    import torch
    from peft import LoraConfig, get_peft_model

    assert len(context.train_problems()) == 3
    model, _ = context.load_model(context.parent_adapter)
    torch.manual_seed(context.seed)
    lora = LoraConfig(r=context.settings.rank, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(context.work / "final")
    return context.work / "final"


TOY = Stage(
    name="toy",
    number=6,
    help="the base with a random adapter",
    prompt="think",
    compared_to=("plain",),
    settings=ToySettings,
    train=train,
)
'''

RECIPE = """
problems:
  - {set: arithmetic_v1, split: train, take: 3}
dev: 2
rank: 2
"""


@pytest.fixture(scope="module")
def project(root, tmp_path_factory) -> Path:
    """A copy of the project with one more stage."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("data", "eval", "pipeline", "recipes"):
        shutil.copytree(root / name, copy / name)

    (copy / "pipeline" / "stages" / "toy.py").write_text(STAGE)
    (copy / "recipes" / "6_toy.yaml").write_text(RECIPE)

    stages = copy / "pipeline" / "stages" / "__init__.py"
    text = stages.read_text()
    line = "    ADAPTIVE,\n"
    assert text.count(line) == 1
    text = text.replace(line, line + "    TOY,\n")
    stages.write_text("from pipeline.stages.toy import TOY\n" + text)
    return copy


@pytest.fixture(scope="module")
def command(project, tiny, tmp_path_factory):
    """The function that runs a command of the copy on the tiny model: command("toy", "--limit", "4")."""
    base = tmp_path_factory.mktemp("base") / "small"
    for part in tiny:
        part.save_pretrained(base)
    runs = tmp_path_factory.mktemp("runs")

    def run(*arguments: str) -> subprocess.CompletedProcess:
        options = ["--base", str(base), "--runs", str(runs), "--profile", "cpu", "--limit", "6"]
        # The gate looks at the problems of all stages, and more than are committed take seconds to make.
        for section in ("sft", "rl", "adaptive", "traces"):
            options += ["--set", f"{section}.problems=[{{set: arithmetic_v1, take: 9}}]"]
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments, *options, "--set", "eval.generation.max_new_tokens=8"],
            cwd=project,
            capture_output=True,
            text=True,
        )

    run.runs = runs
    return run


@pytest.fixture(scope="module")
def finished(command) -> Path:
    """The folder of a run whose new stage is finished."""
    done = command("toy")
    assert done.returncode == 0, done.stderr
    assert "toy: training" in done.stderr

    [folder] = command.runs.iterdir()
    return folder


def test_the_new_stage_is_trained_scored_and_in_the_table(finished):
    scores = json.loads((finished / "toy" / "scores.json").read_text())
    assert (scores["stage"], scores["number"], scores["parent"]) == ("toy", 6, None)

    rows = json.loads((finished / "table.json").read_text())
    assert "toy" in {row["stage"] for row in rows}
    assert "| toy" in (finished / "table.md").read_text()


def test_the_new_stage_is_in_status(finished, command):
    done = command("status")
    assert done.returncode == 0, done.stderr
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert states["toy"] == "up to date"

    stale = command("status", "--set", "toy.rank=3")
    states = dict(line.split(maxsplit=1) for line in stale.stdout.splitlines())
    assert states["toy"].startswith("training: settings.rank was 2, is 3")


def test_the_new_stage_is_behind_the_contamination_gate(command, tmp_path):
    tested = load("arithmetic_v1", "test", 6).problems
    # Others than the recipe of the fixture takes.
    own = load("arithmetic_v1", "train", 140).problems[100:]
    leak = tmp_path / "leak.jsonl"
    write_records(leak, [*own, *tested])

    done = command("toy", "--set", f"toy.problems=[{{set: {leak}, split: all}}]")
    assert done.returncode == 2
    # Some of the six fall into the file's own dev share.
    assert any(f"{problem.id} has the same text as {problem.id}" in done.stderr for problem in tested)
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("toy.rnak=3", "rank"),
        ("toy.rank=many", "toy.rank"),
        ("toy.problems=[{sett: gsm8k}]", "sett"),
    ],
)
def test_the_new_stage_is_behind_config_validation(command, setting, message):
    done = command("status", "--set", setting)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
