"""The table: its rows, what it compares, and what it refuses."""

import dataclasses
import json
import re

import pytest

from data.files import UserError
from data.problem import Grade
from eval.stats import holm, mcnemar_p, wilson_interval
from eval.table import HEADINGS, StageScores, describe_caveats, format_row, make_rows, print_table, to_markdown

KEYS = """benchmark stage variant benchmark_sha256 n accuracy ci_low ci_high tokens_mean thinking_tokens_mean
thinking_rate format_rate truncated_rate undecided_rate seconds overlaps profile alarm control compared_to p_vs_previous
p_holm"""
N = 40

# Which of the problems are correct.
BAD = set(range(4))
FAIR = set(range(2, 14))
GOOD = set(range(20))
BEST = set(range(5, 36))


def make_entry(correct, benchmark="sums", **changes):
    """What scores.json has of a variant on a benchmark."""
    low, high = wilson_interval(len(correct), N)
    entry = {
        "benchmark": benchmark,
        "benchmark_sha256": f"sha of {benchmark}",
        "overlaps": 0,
        "n": N,
        "accuracy": len(correct) / N,
        "ci_low": low,
        "ci_high": high,
        "tokens_mean": 12345.678,
        "thinking_tokens_mean": 3.0,
        "thinking_rate": 0.5,
        "format_rate": 1.0,
        "truncated_rate": 0.0,
        "undecided_rate": 0.0,
        "seconds": 61.2,
        "chance": 0.25,
        "majority": 0.4,
    }
    return entry | changes


def make_grades(correct, first_id=0):
    grades = []
    for number in range(first_id, first_id + N):
        is_correct = number in correct
        grades.append(Grade(str(number), is_correct, "7", "correct" if is_correct else "wrong", True))
    return grades


def make_stage(name, number, compared_to, variants, first_id=0, entry=None, **changes):
    """A stage; ``variants``: name -> benchmark -> which problems are correct."""
    scores = {
        "stage": name,
        "number": number,
        "control": False,
        "compared_to": compared_to,
        "alarm": None,
        "extraction_version": 2,
        "base": "fingerprint",
        "load": "fp32",
        "max_new_tokens": 160,
        "variants": [],
    }
    grades = {}
    for variant, benchmarks in variants.items():
        entries = []
        for benchmark, correct in benchmarks.items():
            entries.append(make_entry(correct, benchmark, **(entry or {})))
            grades[variant, benchmark] = make_grades(correct, first_id)
        scores["variants"].append({"variant": variant, "benchmarks": entries})
    return StageScores(name, scores | changes, grades)


def make_rl(**changes):
    return make_stage("rl", 4, ["sft"], {"think": {"sums": BEST}}, **changes)


@pytest.fixture
def stages():
    """The first four stages on one benchmark."""
    return [
        make_stage("plain", 1, [], {"zero-shot": {"sums": BAD}, "4-shot": {"sums": GOOD}}),
        make_stage("cot", 2, ["plain"], {"zero-shot": {"sums": FAIR}, "4-shot": {"sums": BAD}}),
        make_stage("sft", 3, ["plain", "cot"], {"think": {"sums": BEST}}),
        make_rl(),
    ]


def p(a, b):
    return mcnemar_p([number in a for number in range(N)], [number in b for number in range(N)])


def p_values(rows, key="p_vs_previous"):
    return {(row["stage"], row["variant"]): row[key] for row in rows}


def test_a_first_look_says_so():
    stage = make_stage("plain", 1, [], {"zero-shot": {"sums": GOOD}})
    assert "quick" not in to_markdown(make_rows([stage]))

    quick = dataclasses.replace(stage, profile="quick")
    assert to_markdown(make_rows([quick])).count("PROFILE=quick: a first look") == 1


def test_each_stage_is_tested_against_the_best_variant_of_what_it_is_compared_to(stages):
    rows = make_rows(stages)

    assert all(list(row) == KEYS.split() for row in rows)
    assert p_values(rows) == {
        ("chance", ""): None,
        ("majority", ""): None,
        ("plain", "zero-shot"): None,
        ("plain", "4-shot"): None,
        ("cot", "zero-shot"): p(FAIR, GOOD),
        ("cot", "4-shot"): p(BAD, GOOD),
        ("sft", "think"): p(BEST, GOOD),  # plain's 4-shot is the best-prompted base, better than any cot
        ("rl", "think"): 1.0,
    }
    assert p(BEST, GOOD) != p(BEST, FAIR)


def test_the_stages_are_those_of_scores_json(stages):
    mine = make_stage("my_stage", 6, ["rl", "cot"], {"think": {"sums": FAIR}})
    *_, row = make_rows([*stages, mine])

    assert (row["stage"], row["p_vs_previous"]) == ("my_stage", p(FAIR, BEST))
    assert "my_stage with rl and cot" in to_markdown(make_rows([*stages, mine]))


def test_p_values_are_corrected_for_all_tests_of_the_table(stages):
    rows = make_rows([*stages, make_stage("adaptive", 5, ["rl"], {"think": {"sums": FAIR}})])
    tested = [row for row in rows if row["p_vs_previous"] is not None]

    assert len(tested) == 5
    assert [row["p_holm"] for row in tested] == holm([row["p_vs_previous"] for row in tested])
    assert tested[-1]["p_holm"] > tested[-1]["p_vs_previous"]


def two_benchmarks(name, number, compared_to, sums, logic):
    return make_stage(name, number, compared_to, {"think": {"sums": sums, "logic": logic}})


def test_the_benchmarks_are_pooled_first_and_then_compared_apart():
    rows = make_rows([two_benchmarks("sft", 3, [], BAD, GOOD), two_benchmarks("rl", 4, ["sft"], FAIR, BEST)])

    assert [row["benchmark"] for row in rows] == ["all"] * 4 + ["sums"] * 4 + ["logic"] * 4
    sft, rl = rows[2:4]
    assert (rl["n"], rl["accuracy"]) == (2 * N, (12 + 31) / (2 * N))
    assert (rl["ci_low"], rl["ci_high"]) == wilson_interval(43, 2 * N)
    assert rl["seconds"] == pytest.approx(2 * 61.2)
    assert sft["benchmark_sha256"] == rl["benchmark_sha256"]

    # The benchmarks' ids are the same, the problems are not.
    before = [number in BAD for number in range(N)] + [number in GOOD for number in range(N)]
    after = [number in FAIR for number in range(N)] + [number in BEST for number in range(N)]
    assert rl["p_vs_previous"] == mcnemar_p(after, before)


def test_pooled_means_weigh_each_benchmark_by_its_problems():
    stage = two_benchmarks("sft", 3, [], BAD, GOOD)
    [variant] = stage.scores["variants"]
    variant["benchmarks"][0] |= {"n": 10, "tokens_mean": 100.0, "chance": 0.5, "overlaps": 2}
    variant["benchmarks"][1] |= {"n": 30, "tokens_mean": 20.0, "chance": 0.1, "overlaps": 1}
    chance, _, sft = make_rows([stage])[:3]

    assert sft["tokens_mean"] == pytest.approx((10 * 100 + 30 * 20) / 40)
    assert chance["accuracy"] == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert sft["overlaps"] == 3


def test_a_variant_that_lacks_a_benchmark_is_not_pooled():
    rows = make_rows([two_benchmarks("sft", 3, [], BAD, GOOD), make_rl()])

    assert [row["stage"] for row in rows if row["benchmark"] == "all"] == ["chance", "majority", "sft"]
    assert [row["stage"] for row in rows if row["benchmark"] == "sums"][-1] == "rl"


@pytest.mark.parametrize("changes", [{"first_id": 1}, {"entry": {"benchmark_sha256": "another"}}])
def test_stages_on_different_problems_are_refused(stages, changes):
    with pytest.raises(UserError, match=r"plain \(zero-shot\) and rl \(think\).*problems of sums.*run both again"):
        make_rows([*stages[:3], make_rl(**changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extraction_version": 3}, r"version of the extraction \(2 and 3\)"),
        ({"base": "other"}, r"base \(fingerprint and other\)"),
        ({"load": "nf4"}, r"base.load \(fp32 and nf4\)"),
        ({"max_new_tokens": 80}, r"eval.generation.max_new_tokens \(160 and 80\)"),
    ],
)
def test_stages_that_were_scored_by_other_rules_are_refused(stages, changes, message):
    with pytest.raises(UserError, match=f"plain and rl were scored with another {message}; run both"):
        make_rows([*stages[:3], make_rl(**changes)])


def test_without_scores_it_says_what_to_run():
    with pytest.raises(UserError, match="make plain"):
        make_rows([])


def test_guessing_stands_first_and_a_control_against_its_stage(stages):
    control = make_stage("rl_random", 4, ["rl"], {"think": {"sums": FAIR}}, control=True)
    chance, majority, *_, last = make_rows([*stages, control])

    assert (chance["stage"], chance["accuracy"]) == ("chance", 0.25)
    assert (majority["stage"], majority["accuracy"]) == ("majority", 0.4)
    assert (last["stage"], last["control"], last["p_vs_previous"]) == ("rl_random", True, p(FAIR, BEST))


def split_markdown(text):
    """The cells of each line of the table; a bar within a cell is escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def test_the_markdown_is_a_table_for_github(stages):
    rows = make_rows(stages)
    headings, rule, *body = split_markdown(to_markdown(rows))

    assert [heading.strip() for heading in headings] == list(HEADINGS)
    assert all(re.fullmatch(r" -{3,}:? ", cell) for cell in rule)
    assert [[cell.strip() for cell in line] for line in body] == [format_row(row) for row in rows]
    assert {len(cell) for cell in headings[:1]} == {len(line[0]) for line in body}


def test_the_markdown_shows_the_numbers_and_the_notes(stages):
    text = to_markdown(make_rows(stages))

    assert "| 30.0 [18.1, 45.4] |" in text
    assert "McNemar" in text
    assert "Compared: cot with plain; sft with plain and cot; rl with sft." in text


def test_rows_are_json(stages):
    rows = make_rows(stages)

    assert json.loads(json.dumps(rows)) == rows


def test_problems_that_overlap_with_training_mark_the_row(stages):
    assert " *" not in to_markdown(make_rows(stages))

    rows = make_rows([*stages[:3], make_rl(entry={"overlaps": 3})])
    assert format_row(rows[-1])[1] == "rl *"
    caveats = describe_caveats(rows)
    assert "rl *: 3 problems of sums overlap with what it learnt from or was shown (--allow-overlap)." in caveats


def test_a_training_that_was_stopped_is_named_once(stages):
    alarm = "stopped at step 4: the reward fell from 0.41 to 0.02"
    caveats = describe_caveats(make_rows([*stages[:3], make_rl(alarm=alarm)]))

    assert caveats.count(f"rl: {alarm}; the adapter that was best on dev until then is scored.") == 1
    assert not any("stopped" in line for line in describe_caveats(make_rows(stages)))


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (20, "n = 20: not even a difference of 20 points is found"),
        (120, "n = 120: a difference of 11 points is found"),
    ],
)
def test_the_caveats_say_what_so_many_problems_can_detect(stages, n, message):
    row = make_rows(stages)[-1]

    assert message in to_markdown([row | {"n": n}])


def test_a_bar_in_a_name_does_not_break_the_markdown():
    rows = make_rows([make_stage("plain", 1, [], {"a|b": {"sums": BAD}})])

    assert {len(line) for line in split_markdown(to_markdown(rows))} == {len(HEADINGS)}


@pytest.mark.parametrize("columns", ["20", "80", "300"])
@pytest.mark.parametrize("terminal", [False, True])
def test_numbers_are_never_cut_off_on_the_screen(capsys, monkeypatch, columns, terminal):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)

    long_name = "a_benchmark_with_a_rather_long_name_" * 3
    rows = make_rows([make_stage("plain", 1, [], {"[red]zero[/red]": {long_name: FAIR}})])
    print_table(rows)
    output = capsys.readouterr().out

    assert "30.0 [18.1, 45.4]" in output
    assert "12345.7" in output
    assert "\u2026" not in output
    assert ("\x1b" in output) == terminal
    assert "[red]zero[/red]" in output  # a name is no markup
    assert len(output.splitlines()) == 4 + 1 + 1  # the table, a blank line, and what its size can detect
