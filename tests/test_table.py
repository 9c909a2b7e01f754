"""The table: its rows, what it compares, and what it refuses."""

import csv
import io
import json
import math
import re

import pytest

from data.records import BadInput, Grade, write_json, write_records
from eval.compare import detectable, holm, mcnemar, wilson
from eval.table import comma_separated, latex, markdown, rows, show, write

KEYS = (
    "stage variant benchmark benchmark_sha256 n accuracy ci_low ci_high tokens_mean thinking_tokens_mean thinking_rate"
)
KEYS += " format_rate truncated_rate seconds overlaps alarm p_vs_previous p_holm"
N = 40


def add(run_dir, stage, variants, benchmark="sums", sha="s1", first_id=0, extraction=1, **more):
    """A stage scored on N problems; ``variants``: name -> which of them are right."""
    entries = []
    for name, right in variants.items():
        low, high = wilson(len(right), N)
        path = f"grades/{name}/{benchmark}.jsonl"
        ids = range(first_id, first_id + N)
        verdict = {True: "correct", False: "wrong"}
        write_records(run_dir / stage / path, [Grade(str(i), i in right, "7", verdict[i in right], True) for i in ids])
        scored = {"n": N, "accuracy": len(right) / N, "ci_low": low, "ci_high": high, "tokens_mean": 12345.678}
        scored |= {"thinking_tokens_mean": 3.0, "thinking_rate": 0.5, "format_rate": 1.0, "truncated_rate": 0.0}
        scored |= {"seconds": 61.2, "benchmark": benchmark, "benchmark_sha256": sha, "grades": path, "verdicts": {}}
        scored |= {"chance": 0.25, "majority": 0.4}
        entries.append({"variant": name, "benchmarks": [scored]})
    scores = {"stage": stage, "extraction": extraction, "variants": entries}
    write_json(run_dir / stage / "scores.json", scores | more)


def p(a, b):
    return mcnemar([i in a for i in range(N)], [i in b for i in range(N)])


BAD, FAIR, GOOD, BEST = set(range(4)), set(range(2, 14)), set(range(20)), set(range(5, 36))


@pytest.fixture
def run_dir(tmp_path):
    add(tmp_path, "plain", {"zero-shot": BAD, "few-shot": GOOD})
    add(tmp_path, "cot", {"zero-shot": FAIR, "few-shot": BAD})
    add(tmp_path, "sft", {"think": BEST})
    add(tmp_path, "rl", {"think": BEST})
    return tmp_path


def test_each_stage_is_tested_against_the_best_of_the_stage_before(run_dir):
    table = rows(run_dir)
    assert all(list(row) == KEYS.split() for row in table)
    found = {(row["stage"], row["variant"]): row["p_vs_previous"] for row in table}
    assert found == {
        ("chance", ""): None,
        ("majority", ""): None,
        ("plain", "zero-shot"): None,
        ("plain", "few-shot"): None,
        ("cot", "zero-shot"): p(FAIR, GOOD),
        ("cot", "few-shot"): p(BAD, GOOD),
        ("sft", "think"): p(BEST, GOOD),  # plain's few-shot is the best-prompted base, better than any cot
        ("rl", "think"): 1.0,
    }
    assert found["sft", "think"] != p(BEST, FAIR)


def test_p_values_are_corrected_for_all_tests_of_the_table(run_dir):
    add(run_dir, "adaptive", {"think": FAIR})
    raw = {(r["stage"], r["variant"]): r["p_vs_previous"] for r in rows(run_dir) if r["p_vs_previous"] is not None}
    corrected = {(r["stage"], r["variant"]): r["p_holm"] for r in rows(run_dir) if r["p_holm"] is not None}
    assert corrected == dict(zip(raw, holm(list(raw.values())), strict=True))
    assert corrected["adaptive", "think"] > raw["adaptive", "think"]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(("n", "changed"), [(120, 0.2), (500, 0.2), (500, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(n, changed):
    """By exact enumeration of McNemar's test, which is a little more cautious than Connor's approximation."""
    difference = detectable(n, changed)
    better = (
        (changed + difference) / 2 / changed
    )  # of the pairs that differ, the share in which the better one is right
    power = 0.0
    for pairs in range(n + 1):
        weight = math.comb(n, pairs) * changed**pairs * (1 - changed) ** (n - pairs)
        if weight > 1e-5:
            for wins in range(pairs + 1):
                if mcnemar([True] * wins + [False] * (pairs - wins), [False] * wins + [True] * (pairs - wins)) <= 0.05:
                    power += weight * math.comb(pairs, wins) * better**wins * (1 - better) ** (pairs - wins)
    assert 0.74 <= power <= 0.82
    assert detectable(4 * n, changed) == pytest.approx(difference / 2, rel=0.1)


def test_benchmarks_stand_together_and_are_compared_apart(run_dir):
    add(run_dir, "adaptive", {"think": BEST}, benchmark="logic", sha="s2")
    table = rows(run_dir)
    assert [row["benchmark"] for row in table] == ["sums"] * 8 + ["logic"] * 3
    assert table[-1]["p_vs_previous"] is None  # rl has no logic


@pytest.mark.parametrize("change", [{"sha": "s2"}, {"first_id": 1}])
def test_stages_on_different_problems_are_refused(run_dir, change):
    add(run_dir, "rl", {"think": BEST}, **change)
    with pytest.raises(BadInput, match=r"plain.*rl.*sums.*rerun"):
        rows(run_dir)


def test_stages_graded_by_different_rules_are_refused(run_dir):
    add(run_dir, "rl", {"think": BEST}, extraction=2)
    with pytest.raises(BadInput, match=r"plain and rl.*another version of the extraction \(1 and 2\)"):
        rows(run_dir)


def test_guessing_stands_first_and_controls_on_request(run_dir):
    add(run_dir, "rl_random", {"zero-shot": FAIR})
    stages = [row["stage"] for row in rows(run_dir)]
    assert stages[:3] == ["chance", "majority", "plain"] and "rl_random" not in stages
    assert [row["accuracy"] for row in rows(run_dir)[:2]] == [0.25, 0.4]
    assert "| sums      | majority |           | 40 |              40.0 |" in markdown(rows(run_dir))
    *_, control = rows(run_dir, controls=True)
    assert control["stage"] == "rl_random" and control["p_vs_previous"] == p(FAIR, BEST)


def test_no_scores_and_broken_scores_are_refused(tmp_path):
    with pytest.raises(BadInput, match="make plain"):
        rows(tmp_path)
    (tmp_path / "cot").mkdir()
    for text in ("{", "[]", '{"variants": [{}]}'):
        (tmp_path / "cot" / "scores.json").write_text(text)
        with pytest.raises(BadInput, match=r"cot.*rerun"):
            rows(tmp_path)


def test_the_files_say_the_same_as_the_rows(run_dir):
    table = write(run_dir)
    assert json.loads((run_dir / "table.json").read_text()) == table == rows(run_dir)
    text = (run_dir / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(table) + 2 and len(set(map(len, lines))) == 1
    assert "| 30.0 [18.1, 45.4] |" in lines[6]
    assert "McNemar" in text and "best-prompted base" in text


def test_overlap_that_was_allowed_marks_the_table(run_dir):
    assert " *" not in markdown(rows(run_dir))
    scores = json.loads((run_dir / "rl" / "scores.json").read_text())
    scores["variants"][0]["benchmarks"][0]["overlaps"] = 3
    write_json(run_dir / "rl" / "scores.json", scores)
    text = markdown(rows(run_dir))
    assert [line.split("|")[2].strip() for line in text.splitlines() if " * " in line[:40]] == ["rl *"]
    assert "* sums: 3 of the problems are given away by the train split" in text


def test_a_bar_in_a_name_does_not_break_the_markdown(run_dir):
    add(run_dir, "plain", {"a|b": BAD})
    line = markdown(rows(run_dir)).splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", line)) == 14


@pytest.mark.parametrize("columns", ["20", "80", "300"])
@pytest.mark.parametrize("terminal", [False, True])
def test_numbers_are_never_cut_on_the_screen(run_dir, capsys, monkeypatch, columns, terminal):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    add(run_dir, "plain", {"[red]zero[/red]": BAD}, benchmark="a_benchmark_with_a_rather_long_name_" * 3, sha="s3")
    add(run_dir, "cot", {"zero-shot": FAIR})
    add(run_dir, "sft", {"think": BEST})
    add(run_dir, "rl", {"think": BEST})
    show(rows(run_dir))
    out = capsys.readouterr().out
    assert "30.0 [18.1, 45.4]" in out and "12345.7" in out and "\u2026" not in out
    assert ("\x1b" in out) == terminal
    assert "[red]zero[/red]" in out  # a name is no markup
    assert len(out.splitlines()) == 9 + 1 + 2  # then a line a benchmark, on what its size can tell apart


def test_the_rounds_that_sft_stands_on_are_rows_and_others_are_not(run_dir):
    add(run_dir, "sft_round1", {"think": FAIR}, stands_on=None)
    add(run_dir, "sft_round2", {"think": GOOD}, stands_on="sft_round1")
    assert "sft_round1" not in {row["stage"] for row in rows(run_dir)}  # left from an earlier recipe
    add(run_dir, "sft", {"think": BEST}, stands_on="sft_round2")
    table = [row for row in rows(run_dir) if row["stage"] not in ("chance", "majority", "plain", "cot")]
    assert [row["stage"] for row in table] == ["sft_round1", "sft_round2", "sft", "rl"]
    tested = [row["p_vs_previous"] for row in table]
    assert tested == [p(FAIR, GOOD), p(GOOD, FAIR), p(BEST, GOOD), 1.0]  # GOOD: the best-prompted base, by chance


def test_a_training_that_was_stopped_says_so_under_the_table(run_dir):
    add(run_dir, "rl", {"think": BEST}, stands_on="sft", alarm="stopped at step 4: the reward fell from 0.41 to 0.02")
    heard = "stopped at step 4: the reward fell from 0.41 to 0.02"
    said = f"rl: {heard}; the adapter that was best on dev until then is scored."
    assert said in markdown(rows(run_dir))
    add(run_dir, "rl", {"think": BEST}, stands_on="sft", alarm=None)
    assert "stopped" not in markdown(rows(run_dir)).replace("stopped by the token limit", "")


def test_the_table_as_csv_and_as_latex(run_dir):
    table = rows(run_dir)
    read = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert [float(row["accuracy"]) for row in read] == [row["accuracy"] for row in table]
    text = latex([*table, table[-1] | {"variant": "50 % & more_of < it\\"}])
    lines = text.splitlines()
    body = [line for line in lines if line.endswith("\\\\")]
    assert len(body) == len(table) + 2 and all(len(re.findall(r"(?<!\\)&", line)) == 12 for line in body)
    assert r"50 \% \& more\_of $<$ it\textbackslash{} &" in body[-1]
    assert lines[0] == r"\begin{tabular}{lllrrrrrrrrrr}" and lines[-1] == r"\end{tabular}"


def test_a_stage_that_stands_on_another_adapter_than_there_is_has_no_row(run_dir):
    from eval.table import damaged

    def made(stage, adapter, on, parent="sft"):
        part = {"adapter": adapter, "stands_on": parent if on else None, "inputs": {"stands_on": on}}
        write_json(run_dir / stage / "manifest.json", {"training": part})

    made("sft", "a", None)
    made("rl", "b", "a")
    assert {row["stage"] for row in rows(run_dir)} >= {"sft", "rl"}
    assert damaged(run_dir / "rl", "training") == [run_dir / "rl" / "adapter" / "adapter_model.safetensors"]
    add(run_dir, "adaptive", {"think": BEST})
    made("adaptive", "d", "b", "rl")
    assert {row["stage"] for row in rows(run_dir)} >= {"sft", "rl", "adaptive"}
    (run_dir / "rl" / "scores.json").rename(run_dir / "kept")  # as where rl was refused
    assert "adaptive" not in {row["stage"] for row in rows(run_dir)}
    (run_dir / "kept").rename(run_dir / "rl" / "scores.json")
    made("sft", "c", None)
    assert not {"rl", "adaptive"} & {row["stage"] for row in rows(run_dir)}
    made("sft", "c", "c")  # which stands on itself: no run leaves that behind, and no end of it would be found
    assert "sft" in {row["stage"] for row in rows(run_dir)}


@pytest.mark.parametrize(
    "inputs, what",
    [
        ({"base": "b2", "load": "bf16", "settings": {"max_tokens": 160}}, r"another base \(b1 and b2\)"),
        ({"base": "b1", "load": "nf4", "settings": {"max_tokens": 160}}, r"another base.load \(bf16 and nf4\)"),
        ({"base": "b1", "load": "bf16", "settings": {"max_tokens": 80}}, r"another eval.max_tokens \(160 and 80\)"),
    ],
)
def test_rows_that_were_asked_otherwise_share_no_table(run_dir, inputs, what):
    alike = {"base": "b1", "load": "bf16", "settings": {"max_tokens": 160}}
    for stage in ("plain", "cot", "sft", "rl"):
        write_json(run_dir / stage / "manifest.json", {"scoring": {"inputs": alike}})
    rows(run_dir)
    write_json(run_dir / "sft" / "manifest.json", {"scoring": {"inputs": inputs}})
    with pytest.raises(BadInput, match=f"plain and sft were scored with {what}; bring both up to date"):
        rows(run_dir)


def test_too_few_problems_are_said_to_find_nothing(run_dir):
    row = rows(run_dir)[-1]
    assert "n = 20: not even a difference of 20 points is found" in markdown([row | {"n": 20}])
    assert "n = 120: a difference of 11 points is found" in markdown([row | {"n": 120}])
