"""What a run says while it goes on: the console, the log file, lines where there is no terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import progress

ROOT = Path(__file__).resolve().parent.parent

STAGE = """
import logging, sys, warnings
from pathlib import Path
from pipeline.__main__ import hush, quiet
hush()
quiet()
from pipeline.progress import logged, say
from data.records import BadInput
import transformers, datasets, accelerate
warnings.warn("before the stage")
with logged(Path(sys.argv[1])):
    say("sft: training [1/2]")
    warnings.warn("a function is old")
    for name in ("transformers.trainer", "datasets.builder", "huggingface_hub.file_download", "trl.trainer", "peft"):
        logging.getLogger(name).warning("%s is worried", name)
    transformers.utils.logging.get_logger("transformers.modeling_utils").warning_once("a weight is new")
    raise BadInput("no trace is left")
"""


def test_warnings_of_a_stage_are_in_its_log_and_not_on_the_terminal(tmp_path):
    for time in (1, 2):  # a stage that goes on appends
        done = subprocess.run([sys.executable, "-c", STAGE, tmp_path], cwd=ROOT, capture_output=True, text=True)
        said, traceback, *_ = done.stderr.splitlines()
        assert said == "sft: training [1/2]" and traceback.startswith("Traceback") and not done.stdout
        assert "worried" not in done.stderr and "is old" not in done.stderr and "weight" not in done.stderr
        log = (tmp_path / "log.txt").read_text()
        for line in (
            "INFO ladder: sft: training [1/2]",
            "UserWarning: a function is old",
            "WARNING huggingface_hub.file_download: huggingface_hub.file_download is worried",
            "WARNING transformers.trainer: ",
            "WARNING datasets.builder: ",
            "WARNING trl.trainer: ",
            "a weight is new",
            "WARNING ladder: ended by BadInput: no trace is left",
        ):
            assert log.count(line) == time, line
        assert "before the stage" not in log


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_bar_is_a_line_a_minute(clock, capsys):
    shown = progress.Bar("sft", 323, "steps", done=100)
    for _ in range(23):
        clock[0] += 4
        shown.advance(1, 1)
    shown.stop()
    assert capsys.readouterr().err == "sft: 115 of 323, 0.25 steps/s, 14 min left\n"


def test_a_short_loop_says_nothing(clock, capsys):
    with progress.bar("scoring", 40) as advance:
        for _ in range(40):
            clock[0] += 1
            advance(1, 50)
    assert not capsys.readouterr().err


def test_throughput_counts_units_and_time_left_counts_items(clock, capsys):
    with progress.bar("rl zero-shot [x]", 1000) as advance:
        for _ in range(2):
            clock[0] += 60
            advance(2, 900)
    assert capsys.readouterr().err.splitlines() == [
        "rl zero-shot [x]: 2 of 1000, 15 tokens/s, 8.3 h left",
        "rl zero-shot [x]: 4 of 1000, 15 tokens/s, 8.3 h left",
    ]
