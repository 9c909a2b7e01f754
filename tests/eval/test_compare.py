"""Several runs in one table: what is paired with what, and what is refused."""

import pytest

from data.files import UserError
from eval.compare import compare_runs, to_markdown
from eval.stats import holm, mcnemar_p


def is_even(problem):
    return int(problem.id[-1]) % 2 == 0


@pytest.fixture
def runs(make_view, answer_correctly):
    """The second run is correct where the first is not, and on level 1."""
    first = make_view("first", ["plain", "sft"], 20, lambda p: answer_correctly(p) if is_even(p) else "unsure")
    second = make_view("second", ["sft", "control"], 20, lambda p: "unsure" if is_even(p) else answer_correctly(p))
    return [first, second]


def test_caveats_name_the_run(runs):
    for row in runs[1].rows:
        row["alarm"] = "stopped at step 4" if row["stage"] == "sft" else None
    text = to_markdown(compare_runs(runs))
    assert "- second: sft: stopped at step 4; the adapter" in text


def test_each_stage_is_paired_with_that_of_the_first_run(runs):
    rows = compare_runs(runs)

    places = [(row["benchmark"], row["stage"], row["run"]) for row in rows]
    assert places == [
        (benchmark, stage, run)
        for benchmark in ("all", "arithmetic_v1", "logic_v1")
        for stage, run in (("plain", "first"), ("sft", "first"), ("sft", "second"))
    ]

    tested = [row for row in rows if row["p_vs_first"] is not None]
    assert [row["run"] for row in tested] == ["second"] * 3

    for row in tested:
        halves = [number < row["n"] // 2 for number in range(row["n"])]
        assert row["p_vs_first"] == mcnemar_p(halves, [not half for half in halves])
    assert [row["p_holm"] for row in tested] == holm([row["p_vs_first"] for row in tested])


def test_equal_runs_do_not_differ(runs):
    rows = compare_runs([runs[0], runs[0]])
    assert {row["p_vs_first"] for row in rows} == {None}

    copy = type(runs[0])("copy", runs[0].rows, runs[0].stages, runs[0].problems)
    rows = compare_runs([runs[0], copy])
    assert [row["p_vs_first"] for row in rows] == [None, 1.0] * 6


def test_the_markdown_has_a_line_for_each_row(runs):
    rows = compare_runs(runs)
    text = to_markdown(rows)

    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert all("---" in cell for cell in lines[1].strip("|").split("|"))
    cells = [[cell.strip() for cell in line.split("|")[1:8]] for line in lines]
    assert ["all", "sft", "second", "zero-shot", "40", "50.0 [35.2, 64.8]", "25.0"] in cells
    assert "- arithmetic_v1, n = 20: " in text


def test_other_problems_and_other_rules_are_refused(runs, make_view):
    fewer = make_view("fewer", ["plain"], 10, lambda p: "unsure")
    with pytest.raises(UserError, match="arithmetic_v1: first and fewer were scored on different problems"):
        compare_runs([runs[0], fewer])

    longer = make_view("longer", ["plain"], 20, lambda p: "unsure", max_new_tokens=999)
    with pytest.raises(UserError, match="another eval.generation.max_new_tokens"):
        compare_runs([runs[0], longer])
