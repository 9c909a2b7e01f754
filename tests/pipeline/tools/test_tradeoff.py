"""``make tradeoff``: every way is asked, what is up to date stays, and what is damaged is answered again."""

import json
import re

import pytest

from data.problem import read_completions
from pipeline.tools import tradeoff
from pipeline.tools.tradeoff import BUDGETS, measure_tradeoff


@pytest.fixture
def measure(copy_run, monkeypatch):
    """Measure without training; returns the text and the labels of what was asked."""
    labels = []

    def evaluate(*arguments, label, **settings):
        labels.append(label)
        return evaluate_really(*arguments, label=label, **settings)

    evaluate_really = tradeoff.evaluate
    monkeypatch.setattr(tradeoff, "evaluate", evaluate)
    monkeypatch.setattr(tradeoff, "run_stage", lambda run, stage: None)

    def run():
        labels.clear()
        return measure_tradeoff(copy_run), list(labels)

    return run


def test_all_ways_are_on_the_curve(measure, copy_run):
    text, labels = measure()
    folder = copy_run.dir.root / "tradeoff"
    assert len(labels) == 2 * (2 + len(BUDGETS))
    assert (folder / "curve.png").is_file()

    curves = json.loads((folder / "curve.json").read_text())
    assert {name: curve["n"] for name, curve in curves.items()} == {"all": 7, "arithmetic_v1": 4, "logic_v1": 3}
    for curve in curves.values():
        budgets = [point["limit"] for point in curve["points"] if point["name"] == "forced budget"]
        assert budgets == list(BUDGETS)
    assert re.search(r"\| all +\| never think +\| +\|", text)

    for completion in read_completions(folder / "answers" / "never" / "logic_v1.jsonl"):
        assert completion.text.startswith("<think></think>\n\\boxed{")
    for completion in read_completions(folder / "answers" / "budget-8" / "logic_v1.jsonl"):
        assert completion.thinking_tokens <= 8

    # The answers are no stage of the table.
    stages = [stage.name for stage in copy_run.dir.read_stage_scores()]
    assert stages == ["plain", "sft", "rl", "adaptive"]


def test_what_is_up_to_date_stays_and_what_is_damaged_is_answered_again(measure, copy_run):
    text, _ = measure()
    assert measure() == (text, [])

    (copy_run.dir.root / "tradeoff" / "answers" / "always" / "logic_v1.jsonl").write_text("")
    again, labels = measure()
    assert again == text
    assert len(labels) == 12


def test_what_was_answered_before_an_interruption_is_kept(measure, copy_run, monkeypatch):
    def fail(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tradeoff, "measure_probabilities", fail)
        with pytest.raises(KeyboardInterrupt):
            measure()

    [file] = (copy_run.dir.root / "tradeoff" / "answers" / "partial" / "never" / "logic_v1").iterdir()
    before = file.read_text()
    assert before.count("\n") == 3

    lines = []
    monkeypatch.setattr(tradeoff, "measure_probabilities", lambda run: lines.append(file.read_text()) or fail(run))
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert lines == [before]
