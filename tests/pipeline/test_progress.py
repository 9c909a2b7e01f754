"""What a run says while it goes on: the console, the log file, lines where there is no terminal."""

import subprocess
import sys

import pytest

from pipeline import progress

STAGE = """
import logging, sys, warnings
from pathlib import Path
from data.files import UserError
from pipeline.progress import log_to, say

logging.captureWarnings(True)
logging.getLogger().addHandler(logging.NullHandler())
warnings.warn("before the stage")
with log_to(Path(sys.argv[1])):
    say("sft: training [1/2]")
    warnings.warn("a function is old")
    logging.getLogger("trl.trainer").warning("a weight is new")
    raise UserError("bad input")
"""

LOGGED = (
    "INFO ladder: sft: training [1/2]",
    "UserWarning: a function is old",
    "WARNING trl.trainer: a weight is new",
    "WARNING ladder: ended by UserError: bad input",
)


def test_warnings_of_a_stage_are_in_its_log_and_not_on_the_terminal(root, tmp_path):
    for time in (1, 2):  # a stage that goes on appends to its log
        done = subprocess.run([sys.executable, "-c", STAGE, tmp_path], cwd=root, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        assert lines[0] == "sft: training [1/2]"
        assert lines[1].startswith("Traceback")
        assert "is old" not in done.stderr
        assert "is new" not in done.stderr
        assert not done.stdout

        log = (tmp_path / "log.txt").read_text()
        assert [log.count(line) for line in LOGGED] == [time] * len(LOGGED)
        assert "before the stage" not in log
        assert "Traceback" not in log


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: add seconds to its only item."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_bar_is_a_line_a_minute(clock, capsys):
    bar = progress.ProgressBar("sft", 323, "steps", done=100)
    for _ in range(23):
        clock[0] += 4
        bar.advance(1, 1)
    bar.stop()

    assert capsys.readouterr().err == "sft: 115 of 323, 0.25 steps/s, 14 min left\n"


def test_a_short_loop_says_nothing(clock, capsys):
    with progress.progress_bar("scoring", 40) as advance:
        for _ in range(40):
            clock[0] += 1
            advance(1, 50)

    assert not capsys.readouterr().err


def test_throughput_counts_units_and_time_left_counts_items(clock, capsys):
    with progress.progress_bar("rl zero-shot [x]", 1000) as advance:
        for _ in range(2):
            clock[0] += 60
            advance(2, 900)

    assert capsys.readouterr().err.splitlines() == [
        "rl zero-shot [x]: 2 of 1000, 15 tokens/s, 8.3 h left",
        "rl zero-shot [x]: 4 of 1000, 15 tokens/s, 8.3 h left",
    ]


def test_a_terminal_shows_control_characters_and_does_not_obey_them():
    assert progress.printable("a\tb\n\x1b[31mred\u202e") == "a\tb\n\\x1b[31mred\\u202e"
