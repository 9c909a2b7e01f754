"""``SAMPLES=4``: the trained stages are sampled on the problems of the table, and asked only once."""

import json
from statistics import fmean

import pytest

from data.problem import read_grades
from eval.grade import grade_all
from pipeline.stages import STAGES
from pipeline.tools import samples
from pipeline.tools.samples import sample_stages


@pytest.fixture
def calls(monkeypatch):
    """What the model is asked: the label, the seed, the temperature and the texts of each sample."""
    recorded = []

    def evaluate(*arguments, label, seed, temperature, partial, **settings):
        has_texts = any(partial.glob("*.jsonl"))
        evaluation = evaluate_really(
            *arguments, label=label, seed=seed, temperature=temperature, partial=partial, **settings
        )
        texts = [completion.text for completion in evaluation.completions]
        recorded.append(
            {"label": label, "seed": seed, "temperature": temperature, "new": not has_texts, "texts": texts}
        )
        return evaluation

    evaluate_really = samples.evaluate
    monkeypatch.setattr(samples, "evaluate", evaluate)
    return recorded


def test_the_trained_stages_are_sampled_beside_their_greedy_accuracy(calls, copy_run):
    table = sample_stages(copy_run, STAGES, 4)
    content = json.loads((copy_run.dir.root / "pass_at_k.json").read_text())
    rows = {(row["benchmark"], row["stage"]): row for row in content["rows"]}

    names = ("all", "arithmetic_v1", "logic_v1")
    assert list(rows) == [(name, stage) for name in names for stage in ("sft", "rl", "adaptive")]
    assert [row["n"] for row in content["rows"][::3]] == [7, 4, 3]
    assert "| pass@1 | pass@2 | pass@4 | maj@4 |" in table.splitlines()[0]

    # Each sample is another one, and none is greedy.
    ours = [call for call in calls if call["label"].startswith("sft arithmetic_v1")]
    assert len({call["seed"] for call in ours}) == 4
    assert len({tuple(call["texts"]) for call in ours}) == 4
    assert {call["temperature"] for call in calls} == {1.0}

    grades = read_grades(copy_run.dir.root / "sft" / "grades" / "logic_v1.jsonl")
    assert rows["logic_v1", "sft"]["greedy"] == fmean(grade.correct for grade in grades)


def test_the_rows_of_all_are_the_means_over_all_problems(calls, copy_run, monkeypatch):
    # The models of the fixture know no answer.
    def grade_by_length(problems, completions):
        grades = grade_all(problems, completions)
        for grade, completion in zip(grades, completions, strict=True):
            object.__setattr__(grade, "correct", len(completion.text) % 2 == 0)
        return grades

    monkeypatch.setattr(samples, "grade_all", grade_by_length)
    sample_stages(copy_run, STAGES, 2)

    content = json.loads((copy_run.dir.root / "pass_at_k.json").read_text())
    rows = {row["benchmark"]: row for row in content["rows"] if row["stage"] == "rl"}
    hits = {"arithmetic_v1": 0.0, "logic_v1": 0.0}
    for call in calls:
        stage, benchmark = call["label"].split(",")[0].split()
        if stage == "rl":
            hits[benchmark] += sum(len(text) % 2 == 0 for text in call["texts"]) / 2

    for benchmark, n in (("arithmetic_v1", 4), ("logic_v1", 3)):
        assert rows[benchmark]["pass_at"]["1"]["accuracy"] == pytest.approx(hits[benchmark] / n)
    assert rows["all"]["pass_at"]["1"]["accuracy"] == pytest.approx(sum(hits.values()) / 7)
    assert rows["all"]["pass_at"]["2"]["accuracy"] >= rows["all"]["pass_at"]["1"]["accuracy"]


def test_more_samples_go_on_from_those_that_are_there(calls, copy_run):
    sample_stages(copy_run, STAGES, 2)
    calls.clear()
    sample_stages(copy_run, STAGES, 3)

    new = [call["label"] for call in calls if call["new"]]
    assert len(new) == 3 * 2
    assert all("sample 3 of 3" in label for label in new)


def test_a_stage_without_a_row_is_left_out(calls, copy_run):
    # As a control that found nothing to learn.
    copy_run.dir.stage("rl").forget()
    sample_stages(copy_run, STAGES, 1)

    content = json.loads((copy_run.dir.root / "pass_at_k.json").read_text())
    assert {row["stage"] for row in content["rows"]} == {"sft"}
    assert not any(call["label"].startswith("rl") for call in calls)
