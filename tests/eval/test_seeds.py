"""Several seeds in one table: what is averaged, what is tested, and what is refused."""

import dataclasses
from statistics import stdev

import pytest

from data.files import UserError
from eval.seeds import HEADINGS, summarize_seeds, to_markdown
from eval.stats import holm, sign_flip_p

N = 20  # problems of each benchmark


@pytest.fixture
def make_seed(make_view, answer_correctly):
    """The function that makes a run whose stages are correct on the first so many problems of each benchmark."""

    def make(name, counts, **options):
        views = []
        for stage, count in counts.items():

            def answer(problem, count=count):
                return answer_correctly(problem) if int(problem.id[-4:]) <= count else "unsure"

            views.append(make_view(name, [stage], N, answer, compared_to={"sft": ["plain"], "rl": ["sft"]}, **options))
        stages = [view.stages[0] for view in views]
        # Each run's own tests are not looked at.
        return dataclasses.replace(views[0], rows=[row for view in views for row in view.rows], stages=stages)

    return make


def pick(rows, benchmark, stage):
    [row] = [row for row in rows if (row["benchmark"], row["stage"]) == (benchmark, stage)]
    return row


def test_mean_and_spread_over_the_seeds(make_seed):
    runs = [make_seed("a", {"plain": 4}), make_seed("a/seed-2", {"plain": 10}), make_seed("a/seed-3", {"plain": 4})]
    row = pick(summarize_seeds(runs), "logic_v1", "plain")

    assert (row["seeds"], row["n"]) == (3, N)
    assert row["accuracy_mean"] == pytest.approx(0.3)
    assert row["accuracy_sd"] == pytest.approx(stdev([0.2, 0.5, 0.2]))
    assert (row["tokens_mean"], row["tokens_sd"]) == (25, 0)
    assert row["gain"] is None and row["p_vs_previous"] is None


def test_stages_are_tested_on_each_problems_mean(make_seed):
    runs = [make_seed("a", {"plain": 4, "sft": 10}), make_seed("a/seed-2", {"plain": 4, "sft": 2})]
    rows = summarize_seeds(runs)
    row = pick(rows, "logic_v1", "sft")

    # Two problems are lost under one seed, six are won under the other.
    assert row["gain"] == pytest.approx((6 - 2) / 2 / N)
    assert row["p_vs_previous"] == sign_flip_p([-1] * 2 + [1] * 6)
    assert row["gain_low"] < row["gain"] < row["gain_high"]

    pooled = pick(rows, "all", "sft")
    assert pooled["p_vs_previous"] == sign_flip_p([-1] * 4 + [1] * 12)
    tested = [row for row in rows if row["p_vs_previous"] is not None]
    assert [row["p_holm"] for row in tested] == holm([row["p_vs_previous"] for row in tested])


def test_a_stage_that_one_seed_lacks_is_tested_on_the_others(make_seed):
    runs = [make_seed("a", {"plain": 4, "sft": 10}), make_seed("a/seed-2", {"plain": 0})]
    row = pick(summarize_seeds(runs), "logic_v1", "sft")

    assert (row["seeds"], row["accuracy_sd"]) == (1, None)
    assert row["gain"] == pytest.approx(6 / N)

    runs = [make_seed("a", {"plain": 4, "sft": 10}), make_seed("a/seed-2", {"sft": 20})]
    row = pick(summarize_seeds(runs), "logic_v1", "sft")
    assert (row["seeds"], row["accuracy_mean"]) == (2, 0.75)
    assert row["gain"] == pytest.approx(6 / N)


def test_a_gain_that_is_the_same_on_every_problem_does_not_look_certain(make_seed):
    row = pick(summarize_seeds([make_seed(name, {"plain": 4, "sft": 4}) for name in ("a", "b")]), "logic_v1", "sft")
    assert row["gain"] == 0
    assert row["gain_low"] < 0 < row["gain_high"]


def test_the_markdown_has_a_line_for_each_row(make_seed):
    rows = summarize_seeds([make_seed("a", {"plain": 4, "sft": 10}), make_seed("a/seed-2", {"plain": 4})])
    text = to_markdown(rows)

    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == list(HEADINGS)
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == ["all", "plain", "zero-shot", "40", "2", "20.0", "0.0", "25.0", "0.0", "", "", ""]
    assert "Compared: sft with plain." in text


def test_what_is_wrong_with_one_seed_is_said_of_all(make_seed):
    runs = [make_seed("a", {"plain": 4}), make_seed("a/seed-2", {"plain": 4})]
    assert "*" not in to_markdown(summarize_seeds(runs))

    pick(runs[1].rows, "all", "plain").update(overlaps=3, alarm="stopped at step 4", profile="quick")
    text = to_markdown(summarize_seeds(runs))
    assert "| plain * |" in text
    assert "- plain *: 3 problems of all overlap with what it learnt from or was shown (--allow-overlap)." in text
    assert "- plain: stopped at step 4; the adapter that was best on dev until then is scored." in text
    assert "- PROFILE=quick: a first look" in text
    assert text.endswith(".\n")


def test_seeds_on_other_problems_are_refused(make_seed):
    runs = [make_seed(name, {"plain": 4}) for name in ("a", "a/seed-2")]
    stage = runs[1].stages[0]
    grades = {key: each[:-1] for key, each in stage.grades.items()}
    runs[1] = dataclasses.replace(runs[1], stages=[dataclasses.replace(stage, grades=grades)])
    with pytest.raises(UserError, match="plain has other problems in a/seed-2 than under another seed"):
        summarize_seeds(runs)


def test_runs_that_differ_in_more_than_the_seed_are_refused(make_seed):
    run = make_seed("a", {"plain": 4})
    with pytest.raises(UserError, match="make SEED=2"):
        summarize_seeds([run])
    with pytest.raises(UserError, match="another eval.generation.max_new_tokens"):
        summarize_seeds([run, make_seed("a/seed-2", {"plain": 4}, max_new_tokens=99)])

    fewer = make_seed("a/seed-2", {"plain": 4})
    pooled = pick(fewer.rows, "all", "plain")
    rows = [row if row is not pooled else {**row, "benchmark_sha256": "of one alone"} for row in fewer.rows]
    with pytest.raises(UserError, match="plain has other benchmarks in a/seed-2 than in a; run both with the same"):
        summarize_seeds([run, dataclasses.replace(fewer, rows=rows)])

    stage = run.stages[0]
    manifest = {"scoring": {**stage.manifest["scoring"], "inputs": {"settings": {"shots": [0]}}}}
    other = dataclasses.replace(run, name="a/seed-2", stages=[dataclasses.replace(stage, manifest=manifest)])
    with pytest.raises(UserError, match="plain has other settings or problems in a/seed-2 than in a"):
        summarize_seeds([run, other])

    # Other examples.
    runs = []
    for name, digest in (("a", "x"), ("a/seed-2", "y")):
        inputs = {"settings": {}, "prompts": {"4-shot/logic_v1.jsonl": digest}}
        manifest = {"scoring": {**stage.manifest["scoring"], "inputs": inputs}}
        runs.append(dataclasses.replace(run, name=name, stages=[dataclasses.replace(stage, manifest=manifest)]))
    with pytest.raises(UserError, match="plain has other settings or problems in a/seed-2 than in a"):
        summarize_seeds(runs)

    # A file that was edited in between.
    manifest = {"scoring": stage.manifest["scoring"], "training": {"inputs": {"problems": {"mine.jsonl": ["b"]}}}}
    other = dataclasses.replace(run, name="a/seed-2", stages=[dataclasses.replace(stage, manifest=manifest)])
    manifest = {"scoring": stage.manifest["scoring"], "training": {"inputs": {"problems": {"mine.jsonl": ["a"]}}}}
    first = dataclasses.replace(run, stages=[dataclasses.replace(stage, manifest=manifest)])
    with pytest.raises(UserError, match="plain has other settings or problems in a/seed-2 than in a"):
        summarize_seeds([first, other])
