"""The GPU's profile, rehearsed on a CPU by nano-tiny: all stages in bf16, with fewer problems and smaller batches."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from pipeline.config import load_recipe

BASE = "nano-tiny"
PROBLEMS = "[{{set: sums_v1, split: train, take: {}}}, {{set: booleans_v1, split: train, take: {}}}]"
# Of these so small a model solves some with steps that check.
EASY_PROBLEMS = '[{set: booleans_v1, split: train, take: 96, levels: "1"}]'

# Values alone: what is counted is smaller, and every key that the profile has is there.
SMALLER = [
    "base.load=bf16",
    "plain.shots=[0]",
    "cot.shots=[0]",
    "sft.trainer.per_device_train_batch_size=16",
    "sft.trainer.warmup_steps=2",
    # What takes longest at this size are the points on dev.
    "sft.trainer.eval_steps=32",
    f"rl.problems={EASY_PROBLEMS}",
    "rl.expert_iteration.samples=3",
    "rl.expert_iteration.trainer.per_device_train_batch_size=16",
    "rl.expert_iteration.trainer.warmup_steps=2",
    "adaptive.trainer.per_device_train_batch_size=16",
    f"adaptive.problems={PROBLEMS.format(16, 16)}",
]


def build_command(runs, name):
    command = [sys.executable, "-m", "pipeline", name, "--runs", str(runs), "--base", BASE, "--limit", "8"]
    command += ["--profile", "gpu"]
    for setting in SMALLER:
        command += ["--set", setting]
    return command


@pytest.fixture(scope="module")
def rehearsal(root, tmp_path_factory):
    """The folder of a run that was killed at a checkpoint and begun again, and what the second command said."""
    runs = tmp_path_factory.mktemp("rehearsal")
    process = subprocess.Popen(
        build_command(runs, "all"), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    # A checkpoint with a manifest is whole.
    while not list(runs.glob(f"{BASE}/sft/work/checkpoint-*/manifest.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    done = subprocess.run(build_command(runs, "all"), cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return runs / BASE, done.stderr


def test_a_run_by_the_gpus_profile_goes_on_from_its_checkpoint_to_the_table(rehearsal):
    folder, said = rehearsal
    assert "going on from step" in said

    rows = json.loads((folder / "table.json").read_text())
    assert {row["stage"] for row in rows} >= {"plain", "cot", "sft", "rl", "adaptive"}
    assert {row["profile"] for row in rows if row["stage"] in ("sft", "rl", "adaptive")} == {"gpu"}

    profile = load_recipe("gpu").stages["rl"].expert_iteration
    used = yaml.safe_load((folder / "rl" / "recipe.yaml").read_text())["rl"]["expert_iteration"]
    assert used["rounds"] == profile.rounds == len(json.loads((folder / "rl" / "curve.json").read_text())) - 1
    assert used["trainer"]["num_train_epochs"] == profile.trainer["num_train_epochs"]


def test_its_report_has_every_stage(root, rehearsal):
    folder, _ = rehearsal
    done = subprocess.run(build_command(folder.parent, "report"), cwd=root, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    page = (folder / "report.html").read_text()
    assert all(stage in page for stage in ("plain", "cot", "sft", "rl", "adaptive"))
