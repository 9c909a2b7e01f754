"""The last lines of a run say where things are, what came of each stage, and what is left to do."""

import json

import pytest

from eval import table
from eval.summary import summary


def row(stage, accuracy, benchmark="sums", p=None):
    return {"stage": stage, "benchmark": benchmark, "accuracy": accuracy, "p_holm": p}


FIVE = [row("chance", 0.9), row("plain", 0.1), row("cot", 0.2, p=1.0), row("sft", 0.5, p=0.001)]
FIVE += [row("rl", 0.5, p=1.0), row("adaptive", 0.45, p=0.3)]


@pytest.fixture
def trained(tmp_path):
    """rl ended with the adapter it began with, adaptive with another one."""
    for stage, adapter, last in (("rl", "a", 0.4), ("adaptive", "b", 0.5)):
        (tmp_path / stage).mkdir()
        manifest = {"training": {"adapter": adapter, "inputs": {"stands_on": "a"}}}
        (tmp_path / stage / "manifest.json").write_text(json.dumps(manifest))
        points = [{"step": 0, "accuracy": 0.5, "tokens": 60}, {"step": 5, "accuracy": last, "tokens": 50}]
        (tmp_path / stage / "curve.json").write_text(json.dumps(points))
    (tmp_path / "rl" / "preflight.json").write_text(json.dumps({"verdict": "can learn: 37% of the groups are mixed"}))
    return tmp_path


def test_a_whole_run_in_which_rl_did_not_help(trained):
    said = summary(trained, FIVE, "BASE=nano").splitlines()
    assert said[0].startswith(f"Results are in {trained}") and "log.txt" in said[0]
    assert "sft against the best prompt: +30.0 points on sums, more than chance." in said
    assert "rl against sft: +0.0 points on sums, within chance." in said
    assert "adaptive against rl: -5.0 points on sums, within chance." in said
    [why] = [line for line in said if "began with" in line]
    assert why.startswith("rl kept") and "37% of the groups are mixed (preflight.json)" in why
    assert "50.0 % and 60.0 tokens, 40.0 % and 50.0 tokens (curve.json)" in why and "alarm" not in why
    assert said[-1].startswith("Next, with BASE=nano: make report") and "not run yet" not in said[-1]
    assert all(f"make {name}" in said[-1] for name in ("tradeoff", "controls", "ask"))


def test_a_later_round_of_sft_is_held_to_the_one_before(trained):
    rounds = [*FIVE[:3], row("sft_round1", 0.5, p=0.001), row("sft", 0.4, p=0.2)]
    said = summary(trained, rounds).splitlines()
    assert "sft against sft_round1: -10.0 points on sums, within chance." in said


def test_an_alarm_is_told_and_the_most_there_is_to_say_is_eight_lines(trained):
    for stage in ("rl", "adaptive"):
        (trained / stage / "alarm.txt").write_text("stopped at step 5: accuracy on dev fell\n")
    (trained / "tradeoff").mkdir()
    (trained / "tradeoff" / "tradeoff.svg").touch()
    asked = {"rl": {"adapter": "a"}, "adaptive": {"adapter": "b"}}
    (trained / "tradeoff" / "manifest.json").write_text(json.dumps({"scoring": {"inputs": asked}}))
    both = [r | {"benchmark": name} for name in ("sums", "logic") for r in [*FIVE, row(table.CONTROLS[0], 0.5, p=1.0)]]
    text = summary(trained, both)
    assert text.count("\n") <= 8 and text.count("it was stopped at step 5: accuracy on dev fell (alarm.txt)") == 2
    assert "adaptive kept an earlier adapter than its last" in text
    assert "make tradeoff" not in text and "make controls" not in text and "\nNext: make report" in text


def test_the_first_stage_alone_says_what_is_missing(tmp_path):
    said = summary(tmp_path, FIVE[:2]).splitlines()
    assert len(said) == 2 and "make (cot, sft, rl, adaptive not run yet)" in said[1]
    assert "tradeoff" not in said[1] and "controls" not in said[1]
