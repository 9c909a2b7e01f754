"""Bad input gets one line and exit status 2, and leaves nothing behind; every --help works."""

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOOD = json.dumps({"id": "1", "question": "What is 1 + 1?", "answer": "2"})


def call(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )


@pytest.mark.parametrize(
    "command",
    [
        "pipeline",
        *(
            f"pipeline {c}"
            for c in (
                "plain",
                "cot",
                "sft",
                "rl",
                "adaptive",
                "all",
                "controls",
                "ask",
                "table",
                "tradeoff",
                "check",
                "compare",
                "export",
            )
        ),
    ]
    + ["pipeline complete", "data.build", "eval.grade", "eval.score", "eval.errors", "eval.dialogue", "eval.tradeoff"],
)
def test_help(command):
    done = call(*command.split(), "--help")
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["plain", "--base", "smollm2-135n"], "did you mean smollm2-135m?"),
        (["plain", "--base", "no/such/model/at/all"], "is unknown"),
        (["plain", "--base", "absent.gguf"], "no such file"),
        (["plain", "--profile", "gpux"], "did you mean gpu?"),
        (["plain", "--limit", "0"], "must be 1 or more"),
        (["plain", "--limit", "-3"], "must be 1 or more"),
        (["plain", "--set", "sft.learning_rat=1"], "did you mean learning_rate?"),
        (["plain", "--set", "sft.epochs=many"], "sft.epochs must be a whole number"),
        (["plain", "--benchmark", "absent.jsonl"], "no such file"),
        (["plain", "--benchmark", "gsm9k"], "did you mean gsm8k?"),
        (["plain", "--set", "tracker=trakio"], "did you mean trackio?"),
        (["plain", "--set", "rl.reward=coin"], "reward 'coin' is unknown"),
        (["ask", "What is 1 + 1?", "--budget", "-1"], "must be 0 or more"),
        (["ask", "What is 1 + 1?", "--min-thinking", "9", "--budget", "8"], "not above BUDGET"),
        (["plain", "--set", "sft.direct_share=[0.5]"], "must hold 5 shares"),
        (["plain", "--set", "adaptive_budget.budgets=[]"], "must name at least one"),
        (["table"], "no stage has a scores.json"),
        (["compare", "--bases", "q4/model.gguf", "q8/model.gguf"], "would share the folder model"),
    ],
)
def test_bad_input_is_one_line_with_status_2(tmp_path, options, words):
    done = call("pipeline", *options, "--runs", tmp_path / "runs")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_is_not_installed_stops_a_run_before_it_begins(tmp_path, monkeypatch, capsys):
    from pipeline import __main__ as command_line

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    assert command_line.main(["sft", "--runs", str(tmp_path / "runs"), "--set", "tracker=wandb", "--limit", "1"]) == 2
    said = capsys.readouterr().err
    assert said == "error: tracker=wandb: the package is not there; install it: pip install wandb\n"
    assert not (tmp_path / "runs").exists()


COMPLETE = ["complete", "--model", "nano", "--benchmark", "logic_v1", "--prompt", "think", "--out", "out"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["adaptiv"], "did you mean adaptive?"),
        ([], "COMMAND"),
        (["plain", "--limit", "ten"], "invalid int value: 'ten'"),
        ([*COMPLETE, "--shots", "-1"], "--shots is -1"),
        ([*COMPLETE, "--temperature", "-1"], "--temperature is -1.0"),
        ([*COMPLETE, "--temperature", "nan"], "--temperature is nan"),
        ([*COMPLETE, *"abcdef", "--temperature", "0"], "7 wordings of the think instruction are asked for"),
    ],
)
def test_a_wrong_command_line_is_one_line_too(options, words):
    done = call("pipeline", *options)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("eval.score", ["--model", "nano", "--benchmark", "logic_v1", "--prompt", "foo", "--out", "x"], "'foo'"),
        ("eval.grade", ["--benchmark", "logic_v1"], "--completions, --out"),
        ("eval.errors", ["--examples", "many"], "invalid int value: 'many'"),
        ("eval.dialogue", ["--run", "absent"], "no stage was scored"),
        ("eval.tradeoff", [], "--run"),
        ("data.build", ["--split", "dev", "--out", "/proc/no/such/place"], "/proc/no/such: cannot be written to"),
    ],
)
def test_every_command_line_refuses_in_one_line(module, options, words):
    done = call(module, *options)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "not JSON"),
        ('{"id": "2", "question": "?"}', "'answer' is missing"),
        (GOOD, "already at"),
        ('{"id": "2", "question": "?", "answer": "about ten", "kind": "number"}', "about ten"),
    ],
)
def test_a_malformed_benchmark_line_is_named(tmp_path, line, words):
    benchmark = tmp_path / "bench.jsonl"
    benchmark.write_text(f"{GOOD}\n{line}\n")
    done = call("pipeline", "plain", "--benchmark", benchmark, "--runs", tmp_path / "runs")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "bench.jsonl:2" in done.stderr or "'2'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_no_network_is_said_in_one_line_and_leaves_no_half_made_base(tmp_path):
    cache = tmp_path / "cache"
    done = call(
        "pipeline", "plain", "--base", "smollm2-135m", "--runs", tmp_path / "runs",
        LADDER_CACHE=str(cache), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2 and "check the network" in done.stderr, done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert {path.suffix for path in cache.iterdir()} <= {".lock"} and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["runs", "cache"])
def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch, place):
    from data.records import BadInput
    from pipeline import base

    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 2**20))
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match=r"0\.0 GiB free on this disk, \d\.\d are needed"):
        base.check_space(tmp_path, 1.0, "set RUNS=") if place == "runs" else base.resolve("smollm2-135m")
    assert place == "runs" or not list((tmp_path / "cache").iterdir())


def test_a_disk_that_fills_up_meanwhile_is_one_line_with_status_2(monkeypatch, capsys):
    from pipeline import __main__ as command_line

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/nano/sft/adapter")

    monkeypatch.setattr(command_line, "run", full)
    assert command_line.main(["plain"]) == 2
    assert capsys.readouterr().err == "error: runs/nano/sft/adapter: no space left on the disk; free some and rerun\n"


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),  # safetensors 0.8
        ("[enforce fail at inline_container.cc:672] . unexpected pos 498176 vs 498064", True),  # torch 2.13
        ("unexpected position of the moon", False),
    ],
)
def test_a_full_disk_is_known_by_what_the_libraries_say_of_it(monkeypatch, capsys, said, full):
    from pipeline import __main__ as command_line

    def fails(_):
        raise RuntimeError(said)

    monkeypatch.setattr(command_line, "run", fails)
    if full:
        assert command_line.main(["plain"]) == 2 and "no space left" in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError):
            command_line.main(["plain"])
