"""The numbers of a benchmark, of samples, and of guessing."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.datasets import load
from data.problem import Completion, Grade, Problem
from eval.grade import grade
from eval.score import guess_baselines, score_completions, score_samples
from eval.stats import wilson_interval


def grade_each(problems, completions):
    return [grade(problem, completion) for problem, completion in zip(problems, completions, strict=True)]


@pytest.fixture
def graded():
    """Four problems, their completions and grades."""
    problems = [
        Problem("0", "q", "0", "number", family="sum", level=0),
        Problem("1", "q", "1", "number", family="sum", level=0),
        Problem("2", "q", "2", "number", family="sum", level=1),
        Problem("3", "q", "3", "number", family="product", level=1),
    ]
    completions = [
        Completion("0", "<think>steps</think>\\boxed{0}", 9, 10, 2, "stop"),
        Completion("1", "<think> </think>\\boxed{7}", 9, 4, 2, "stop"),
        Completion("2", "it is 2", 9, 0, 3, "stop"),
        Completion("3", "<think>on and on", 9, 20, 0, "length"),
    ]
    return problems, completions, grade_each(problems, completions)


def test_the_numbers_of_a_benchmark(graded):
    problems, completions, grades = graded
    scores = score_completions(problems, completions[::-1], grades[::-1], 12.5)  # in any order

    assert (scores["n"], scores["accuracy"], scores["seconds"]) == (4, 0.5, 12.5)
    assert (scores["ci_low"], scores["ci_high"]) == wilson_interval(2, 4)
    assert scores["tokens_mean"] == (12 + 6 + 3 + 20) / 4
    assert scores["thinking_tokens_mean"] == 34 / 4
    assert scores["thinking_rate"] == 0.5  # a blank thought and a text without tags do not think
    assert scores["format_rate"] == 0.5
    assert scores["truncated_rate"] == 0.25
    assert scores["undecided_rate"] == 0
    assert scores["by_level"] == {"0": {"n": 2, "accuracy": 0.5}, "1": {"n": 2, "accuracy": 0.5}}
    assert scores["by_family"]["sum"] == {"n": 3, "accuracy": 2 / 3}


def test_each_verdict_is_counted(graded):
    problems, completions, grades = graded
    grades[1] = Grade("1", False, "7", "undecided", True)
    scores = score_completions(problems, completions, grades, 1.0)

    assert scores["undecided_rate"] == 0.25
    assert {verdict: count for verdict, count in scores["verdicts"].items() if count} == {
        "correct": 2,
        "undecided": 1,
        "truncated": 1,
    }


def test_a_problem_without_completion_or_grade_is_an_error(graded):
    problems, completions, grades = graded

    with pytest.raises(KeyError):
        score_completions(problems, completions[1:], grades, 1.0)
    with pytest.raises(KeyError):
        score_completions(problems, completions, grades[1:], 1.0)


def test_the_majority_counts_equal_answers_as_one_and_splits_ties():
    answers = {
        "a": ["7", "7.0", "8"],
        "b": ["7", "8", "none"],
        "c": ["8", "08", "7"],
        "d": ["none", "so", "what"],
        # A guess beside another one is none.
        "e": ["8} or \\boxed{7", "7", "7"],
    }
    problems = [Problem(identity, "q", "7", "number") for identity in answers]

    samples = []
    for number in range(3):
        texts = [rf"\boxed{{{several[number]}}}" for several in answers.values()]
        completions = [Completion(p.id, text, 1, 0, 1, "stop") for p, text in zip(problems, texts, strict=True)]
        samples.append(grade_each(problems, completions))
    scores = score_samples(problems, samples)

    assert scores["maj"]["accuracy"] == (1 + 0.5 + 0 + 0 + 1) / 5
    assert score_samples(problems, samples[::-1])["maj"] == scores["maj"]
    assert list(scores["pass_at"]) == ["1", "2", "3"]
    assert scores["pass_at"]["1"]["accuracy"] == pytest.approx((2 + 1 + 1 + 0 + 2) / 3 / 5)
    assert scores["pass_at"]["3"]["accuracy"] == 4 / 5


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("x+1", "1+x", "x-1", "x-1", "x + 1 + 0"), 1),
        (("x+1", "1+x", "x-1", "-1+x", "x - 1 + 0"), 0),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_equal_formulas_vote_together_however_they_are_written(answers, expected, order):
    problem = Problem("a", "q", "x+1", "text")
    samples = []
    for answer in answers[::order]:
        completion = Completion("a", rf"\boxed{{{answer}}}", 1, 0, 1, "stop")
        samples.append(grade_each([problem], [completion]))
    assert score_samples([problem], samples)["maj"]["accuracy"] == expected


@pytest.mark.parametrize("order", [1, -1])
def test_right_answers_in_several_units_vote_together(order):
    problem = Problem("a", "q", "12", "number")
    samples = []
    for answer in ("12 days", "12 weeks", "12", "13", "13")[::order]:
        completion = Completion("a", rf"\boxed{{{answer}}}", 1, 0, 1, "stop")
        samples.append(grade_each([problem], [completion]))
    assert score_samples([problem], samples)["maj"]["accuracy"] == 1


CHOICES = [("yes", "no"), ("Ann", "Bob", "Eve"), None]
ANSWERS = ("12", "cat", "dog")


def make_problem(number, choices, place, family):
    gold = choices[place % len(choices)] if choices else ANSWERS[place]
    if choices and "yes" in choices:
        return Problem(str(number), "q", gold, "label", choices, family)

    kind = "number" if gold == "12" else "text"
    return Problem(str(number), "q", gold, kind, choices, family)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CHOICES), st.integers(0, 2), st.sampled_from(["f", "g"])), min_size=1),
    st.sampled_from(["yes", "no", "Ann", "Bob", "A", "(B)", "C", "true", "12", "cat"]),
)
def test_a_constant_answer_gets_at_most_the_majority_rate(drawn, constant):
    problems = [make_problem(number, *parts) for number, parts in enumerate(drawn)]
    completions = [Completion(problem.id, rf"\boxed{{{constant}}}", 1, 0, 1, "stop") for problem in problems]
    correct = sum(result.correct for result in grade_each(problems, completions))

    assert correct / len(problems) <= guess_baselines(problems)["majority"] + 1e-9


def test_always_the_same_letter_is_a_constant_answer_too():
    choices = [("Ann", "Bob"), ("Eve", "Ann"), ("Bob", "Eve")]
    problems = [Problem(str(number), "q", pair[0], "text", pair) for number, pair in enumerate(choices)]

    assert guess_baselines(problems) == {"chance": 0.5, "majority": 1.0}


def test_the_baselines_of_our_own_benchmarks():
    logic = guess_baselines(load("logic_v1", "test").problems)
    arithmetic = guess_baselines(load("arithmetic_v1", "test").problems)

    assert 0.4 < logic["chance"] < 0.5
    assert 0.4 < logic["majority"] < 0.6
    assert arithmetic["chance"] == 0
    assert arithmetic["majority"] <= 0.05


def test_importing_eval_is_light(root):
    heavy = ("torch", "transformers", "sympy", "rich", "matplotlib", "pipeline")
    code = (
        f"import sys, eval.table, eval.score, eval.errors, eval.curve; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
