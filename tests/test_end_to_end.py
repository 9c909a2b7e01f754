"""All five stages on the tiny base, once, with real training: what they leave, and that what is done is left alone."""

import json
import shutil
import subprocess
import sys

import pytest

from data.problem import read_grades
from pipeline.run_dir import RunDir

BASE = "nano-tiny"
STAGES = ("plain", "cot", "sft", "rl", "adaptive")


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the finished run, to be written to."""
    return shutil.copytree(run, tmp_path / "runs")


def test_every_stage_is_in_the_table_on_the_same_problems(run):
    rows = json.loads((run / BASE / "table.json").read_text())

    assert {row["stage"] for row in rows} == {"chance", "majority", *STAGES}
    for benchmark in ("all", "sums_v1", "booleans_v1"):
        assert len({(row["benchmark_sha256"], row["n"]) for row in rows if row["benchmark"] == benchmark}) == 1
    assert rows[0]["benchmark"] == "all"
    assert all(row["p_vs_previous"] is not None for row in rows if row["stage"] in STAGES[1:])
    assert "| sums_v1 " in (run / BASE / "table.md").read_text()


def test_sft_learns_the_format_that_the_base_has_never_seen(run):
    rows = json.loads((run / BASE / "table.json").read_text())
    thinking = {(row["stage"], row["variant"]): row["thinking_rate"] for row in rows if row["benchmark"] == "all"}

    assert thinking["plain", "zero-shot"] == 0
    assert thinking["sft", "zero-shot"] > 0.3


def test_each_stage_says_how_it_was_trained(run):
    for stage, axis in (("sft", "step"), ("rl", "round"), ("adaptive", "share")):
        folder = run / BASE / stage
        curve = json.loads((folder / "curve.json").read_text())
        assert curve[0][axis] == 0 and 0 <= curve[0]["accuracy"] <= 1
        assert RunDir(run / BASE).stage(stage).find_damaged("training") == []

    rows = (run / BASE / "adaptive" / "outcomes.jsonl").read_text().splitlines()
    assert rows and 0 <= json.loads(rows[0])["probability"] <= 1


def test_every_stage_has_its_log(run):
    for stage in STAGES:
        log = (run / BASE / stage / "log.txt").read_text()
        assert log.count(f"{stage}: scored in") == 1 and "ended by" not in log


def test_a_second_run_changes_nothing(ladder, run):
    before = {path: path.stat().st_mtime_ns for path in (run / BASE).glob("*/adapter/*.safetensors")}
    done = ladder(run, "all")

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") >= 5 and "training" not in done.stderr
    assert done.stderr.startswith("plan: all stages are up to date\n")
    assert before == {path: path.stat().st_mtime_ns for path in (run / BASE).glob("*/adapter/*.safetensors")}


def test_samples_follow_the_table(ladder, copied):
    done = ladder(copied, "sft", "--samples", "2")

    assert done.returncode == 0, done.stderr
    assert "sft: up to date" in done.stderr
    assert done.stdout.count("pass@2") == 1


def test_every_completion_is_graded_the_same_again_without_a_model(root, run, tmp_path):
    [completions] = (run / BASE / "sft" / "completions").glob("booleans_v1.jsonl")
    command = [sys.executable, "-m", "eval.grade", "--benchmark", str(run / BASE / "problems" / completions.name)]
    command += ["--completions", str(completions), "--out", str(tmp_path / "grades.jsonl")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert read_grades(tmp_path / "grades.jsonl") == read_grades(run / BASE / "sft" / "grades" / completions.name)


def test_status_names_what_has_changed_and_what_depends_on_it(ladder, run):
    done = ladder(run, "status", "--set", "sft.trainer.learning_rate=1e-3")
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())

    assert states["plain"] == states["cot"] == "up to date"
    assert "learning_rate" in states["sft"]
    assert "sft, which it starts from, is not up to date" in states["rl"]


def test_problems_in_the_format_of_gsm8k_go_through_all_stages(root, tmp_path):
    """By recipe values alone: a file of sums with worked answers, split by content."""
    lines = []
    for number in range(60):
        left, right = 2 + number % 9, 3 + number // 9
        answer = f"She has {left}+{right}=<<{left}+{right}={left + right}>>{left + right} pens.\n#### {left + right}"
        question = f"Ann has {left} pens and buys {right} more in shop {number}. How many pens has she?"
        lines.append(json.dumps({"question": question, "answer": answer}))
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(lines) + "\n")

    source = f"gsm8k?file={file}&split=train"
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "all",
        "--base",
        BASE,
        "--runs",
        str(tmp_path / "runs"),
        "--limit",
        "8",
    ]
    for stage in ("sft", "rl", "adaptive"):
        command += ["--set", f"{stage}.problems=['{source}']"]
    command += ["--benchmark", "arithmetic_v1"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "runs" / BASE / "table.json").read_text())
    assert {row["stage"] for row in rows} >= set(STAGES)
