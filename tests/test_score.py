"""Scores, their intervals and paired tests."""

import json
import subprocess
import sys
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data.build import load
from data.records import Completion, Problem, write_records
from eval import score as score_module
from eval.compare import mcnemar, pass_at, wilson
from eval.grade import grade
from eval.score import baselines, main, sampled, score


@settings(deadline=None)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(case):
    right, n = case
    expected = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_refuses_nonsense():
    for right, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            wilson(right, n)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_mcnemar_agrees_with_scipy(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    only_a, only_b = sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_mcnemar_takes_many_problems_and_equal_lengths_only():
    assert mcnemar([True] * 20_000, [False] * 20_000) == 0.0
    assert mcnemar([True, False] * 10_000, [False, True] * 10_000) == 1.0
    with pytest.raises(ValueError):
        mcnemar([True], [])


def made_up():
    problems = [
        Problem(str(i), "q", str(i), "number", family="sum" if i < 3 else "product", level=i // 2) for i in range(4)
    ]
    texts = [
        ("<think>steps</think>\\boxed{0}", 10, 2, "stop"),
        ("<think> </think>\\boxed{7}", 4, 2, "stop"),
        ("it is 2", 0, 3, "stop"),
        ("<think>on and on", 20, 0, "length"),
    ]
    completions = [Completion(str(i), text, 9, *rest) for i, (text, *rest) in enumerate(texts)]
    return problems, completions, [grade(p, c) for p, c in zip(problems, completions, strict=True)]


def test_the_numbers_of_a_benchmark():
    problems, completions, grades = made_up()
    result = score(problems, completions[::-1], grades[::-1], 12.5)  # in any order
    assert (result["n"], result["accuracy"], result["seconds"]) == (4, 0.5, 12.5)
    assert (result["ci_low"], result["ci_high"]) == wilson(2, 4)
    assert result["tokens_mean"] == (12 + 6 + 3 + 20) / 4
    assert result["thinking_tokens_mean"] == 34 / 4
    assert result["thinking_rate"] == 0.5  # a blank thought and a text without tags do not think
    assert result["format_rate"] == 0.5
    assert result["truncated_rate"] == 0.25
    assert result["verdicts"] == {"correct": 2, "wrong": 1, "no_answer": 0, "unclosed": 0, "truncated": 1}
    assert result["by_level"] == {"0": {"n": 2, "accuracy": 0.5}, "1": {"n": 2, "accuracy": 0.5}}
    assert result["by_family"]["sum"] == {"n": 3, "accuracy": 2 / 3}


def test_a_problem_without_completion_is_an_error():
    problems, completions, grades = made_up()
    with pytest.raises(KeyError):
        score(problems, completions[1:], grades, 1.0)


def command(tmp_path, monkeypatch, *more, status=0):
    """eval.score with a stand-in for the model's process, and what that was asked."""
    problems, completions, _ = made_up()
    write_records(tmp_path / "bench.test.jsonl", problems)
    asked = []

    def complete(command, check):
        asked.append(command)
        if status == 0:
            for i, out in enumerate(command[command.index("--out") + 1 :]):
                write_records(out, completions[i:] + completions[:i])
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(score_module.subprocess, "run", complete)
    arguments = ["--model", "nano", "--benchmark", str(tmp_path / "bench.test.jsonl"), "--prompt", "think", *more]
    return [*arguments, "--out", str(tmp_path / "out")], asked


def test_the_command_line_generates_grades_and_scores(tmp_path, monkeypatch, capsys):
    arguments, asked = command(tmp_path, monkeypatch, "--budget", "8")
    assert main(arguments) == 0
    options = dict(pairwise(asked[0]))
    assert asked[0][:4] == [sys.executable, "-m", "pipeline", "complete"]
    assert [options[f"--{key}"] for key in ("model", "prompt", "shots", "budget")] == ["nano", "think", "0", "8"]
    assert "--temperature" not in options
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["accuracy"] == 0.5 and scores["benchmark"] == "bench.test"
    assert (tmp_path / "out" / scores["completions"]).is_file() and (tmp_path / "out" / scores["grades"]).is_file()
    printed = capsys.readouterr().out
    assert "bench.test: 50.0 % [15.0, 85.0] of 4" in printed and printed.count("\n") == 1


def test_samples_are_asked_for_at_a_temperature_and_give_pass_and_majority(tmp_path, monkeypatch, capsys):
    arguments, asked = command(tmp_path, monkeypatch, "--samples", "3", "--temperature", "0.7", "--seed", "5")
    assert main(arguments) == 0
    options = dict(pairwise(asked[0]))
    assert (options["--temperature"], options["--seed"]) == ("0.7", "5")
    assert len(list((tmp_path / "out" / "grades").glob("sample-*/bench.test.jsonl"))) == 3
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["temperature"], scores["seed"], len(scores["each"])) == (0.7, 5, 3)
    assert list(scores["pass_at"]) == ["1", "2", "3"]
    assert "maj@3 50.0 %" in capsys.readouterr().out


def test_wordings_are_scored_apart_and_their_spread_reported(tmp_path, monkeypatch, capsys):
    arguments, asked = command(tmp_path, monkeypatch, "--prompts", "2")
    assert main(arguments) == 0
    assert len(asked[0][asked[0].index("--out") + 1 :]) == 2 and "--temperature" not in asked[0]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (scores["mean"], scores["lowest"], scores["highest"]) == (0.5, 0.5, 0.5)
    assert "mean 50.0, from 50.0 to 50.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--samples", "0"], "--samples is 0"),
        (["--samples", "4", "--temperature", "0"], "--temperature is 0.0"),
        (["--limit", "0"], "--limit is 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, monkeypatch, capsys, more, says):
    arguments, asked = command(tmp_path, monkeypatch, *more)
    assert main(arguments) == 2 and not asked
    assert says in capsys.readouterr().err


def test_the_status_of_the_models_process_is_passed_on(tmp_path, monkeypatch):
    for status, passed in ((2, 2), (-9, 9)):
        arguments, _ = command(tmp_path, monkeypatch, status=status)
        assert main(arguments) == passed
    assert not (tmp_path / "out" / "scores.json").exists()


def test_a_bad_benchmark_is_refused_before_the_model_runs(tmp_path, monkeypatch, capsys):
    arguments, asked = command(tmp_path, monkeypatch)
    (tmp_path / "bench.test.jsonl").write_text('{"id": "x9", "question": "q", "answer": "many", "kind": "number"}\n')
    assert main(arguments) == 2 and not asked
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "x9" in error and error.count("\n") == 1


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_of_k_samples_that_hold_a_right_one(case):
    n, right, k = case
    draws = list(combinations(range(n), k))
    assert pass_at(k, n, right) == pytest.approx(sum(min(draw) < right for draw in draws) / len(draws))


def test_pass_at_refuses_nonsense():
    for k, n, right in ((0, 3, 1), (4, 3, 1), (1, 3, 4)):
        with pytest.raises(ValueError):
            pass_at(k, n, right)


def test_the_majority_counts_equal_answers_as_one_and_splits_ties():
    problems = [Problem(i, "q", "7", "number") for i in "abcd"]
    said = {"a": ["7", "7.0", "8"], "b": ["7", "8", "none"], "c": ["8", "08", "7"], "d": ["none", "so", "what"]}
    written = [
        [Completion(i, rf"\boxed{{{texts[j]}}}", 1, 0, 1, "stop") for i, texts in said.items()] for j in range(3)
    ]
    found = sampled(problems, [[grade(p, c) for p, c in zip(problems, one, strict=True)] for one in written])
    assert found["maj"]["accuracy"] == (1 + 0.5 + 0 + 0) / 4
    assert found["pass_at"]["1"]["accuracy"] == pytest.approx((2 + 1 + 1 + 0) / 3 / 4)
    assert found["pass_at"]["3"]["accuracy"] == 3 / 4


CHOICES = [("yes", "no"), ("Ann", "Bob", "Eve"), None]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CHOICES), st.integers(0, 2), st.sampled_from(["f", "g"])), min_size=1),
    st.sampled_from(["yes", "no", "Ann", "Bob", "A", "(B)", "C", "true", "12", "cat"]),
)
def test_a_constant_answer_gets_at_most_the_majority_rate(drawn, constant):
    problems = []
    for i, (choices, place, family) in enumerate(drawn):
        gold = choices[place % len(choices)] if choices else ("12", "cat", "dog")[place]
        kind = "label" if choices and "yes" in choices else "number" if gold == "12" else "text"
        problems.append(Problem(str(i), "q", gold, kind, choices, family))
    texts = [Completion(p.id, rf"\boxed{{{constant}}}", 1, 0, 1, "stop") for p in problems]
    right = sum(grade(p, c).correct for p, c in zip(problems, texts, strict=True))
    assert right / len(problems) <= baselines(problems)["majority"] + 1e-9


def test_always_the_same_letter_is_a_constant_answer_too():
    choices = [("Ann", "Bob"), ("Eve", "Ann"), ("Bob", "Eve")]
    problems = [Problem(str(i), "q", pair[0], "text", pair) for i, pair in enumerate(choices)]
    assert baselines(problems) == {"chance": 0.5, "majority": 1.0}


def test_the_baselines_of_our_own_benchmarks():
    logic, arithmetic = (baselines(load(name, "test")) for name in ("logic_v1", "arithmetic_v1"))
    assert 0.4 < logic["chance"] < 0.5 and 0.4 < logic["majority"] < 0.6
    assert arithmetic["chance"] == 0 and arithmetic["majority"] < 0.05


def test_importing_eval_is_light():
    code = (
        "import sys, eval.table, eval.score; print([m for m in ('torch', 'transformers', 'sympy', 'rich', 'pipeline')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + " if m in sys.modules])"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
