"""A run that is killed again and again, at random points, ends as an unbroken one; so does one whose files rot.

`make faults` kills 20 times and prints what happened; the tests kill FAULTS times, 3 where it is not set.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runs import folder_hash

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("FAULTS", "3"))
SMALL = ["sft.arithmetic=160", "sft.logic=80", "sft.epochs=1", "sft.save_steps=5", "plain.shots=[0]", "cot.shots=[0]"]
SMALL += [
    "rl.micro_batch=8",
    "rl.prompts=4",
    "rl.samples=4",
    "rl.probe=0",
    "adaptive.micro_batch=8",
    "adaptive.prompts=8",
]
for stage in ("rl", "adaptive"):
    SMALL += [f"{stage}.{key}" for key in ("steps=2", "eval_every=1", "dev=10", "logic=20", "arithmetic=40")]
TRAINED = ("sft", "rl", "adaptive")


def command(runs: Path, *more: str) -> list[str]:
    options = ["--base", "nano", "--profile", "cpu", "--limit", "40", *(x for s in SMALL for x in ("--set", s))]
    return [sys.executable, "-m", "pipeline", *more, "--runs", str(runs), *options]


def ended(runs: Path) -> dict[str, object]:
    """What a run came to, without its seconds."""
    found: dict[str, object] = {stage: folder_hash(runs / "nano" / stage / "adapter") for stage in TRAINED}
    for path in sorted((runs / "nano").rglob("*.jsonl")):
        if path.parent.name in ("completions", "grades", "problems"):
            found[str(path.relative_to(runs))] = path.read_text()
    rows = json.loads((runs / "nano" / "table.json").read_text())
    found["table"] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    runs = tmp_path_factory.mktemp("unbroken")
    begin = time.monotonic()
    done = subprocess.run(command(runs, "all"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return runs, time.monotonic() - begin


def test_killed_at_random_points_it_ends_as_the_unbroken_run(unbroken, tmp_path):
    whole, seconds = unbroken
    rng, kills, begin = random.Random(KILLS), 0, time.monotonic()
    began_of = []
    while kills < KILLS:
        process = subprocess.Popen(
            command(tmp_path, "all"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Nothing is left behind before the libraries are there, so a kill comes after that.
        time.sleep(rng.uniform(0.1, 0.5) * seconds)
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read().decode()
            shutil.rmtree(tmp_path / "nano" / rng.choice(TRAINED), ignore_errors=True)  # it was through: begin again
            continue
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        began_of.append(sum((tmp_path / "nano" / stage / "manifest.json").is_file() for stage in ("plain", *TRAINED)))
    done = subprocess.run(command(tmp_path, "all"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path) == ended(whole)
    assert not list(tmp_path.rglob("*.new")) and not list((tmp_path / "nano").glob("*/partial"))
    print(
        f"\n{kills} kills of a run of {seconds:.0f} s, by stages done: {began_of}; lost: nothing; "
        f"{time.monotonic() - begin:.0f} s"
    )


@pytest.mark.parametrize(
    "victim",
    ["sft/adapter/adapter_model.safetensors", "rl/completions/arithmetic_v1.jsonl", "plain/grades/logic_v1.jsonl"],
)
def test_a_damaged_file_is_named_and_made_again(unbroken, tmp_path, victim):
    whole, _ = unbroken
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    path = runs / "nano" / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(bytes(content))
    stage = victim.split("/")[0]
    said = subprocess.run(command(runs, "status"), cwd=ROOT, capture_output=True, text=True)
    [line] = [line for line in said.stdout.splitlines() if line.startswith(f"{stage} ")]
    assert "is not " in line, line
    if "adapter" not in victim:
        table = [sys.executable, "-m", "pipeline", "table", "--base", "nano", "--runs", str(runs)]
        done = subprocess.run(table, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and path.name in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = subprocess.run(command(runs, "all"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not " in done.stderr
    assert ended(runs) == ended(whole)
