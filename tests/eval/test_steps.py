"""The step checker: what it works out again, and that it accepts every solution of ours."""

import pytest

from data.datasets import load
from data.problem import Problem
from eval.steps import find_steps, find_unfounded_step, find_wrong_step, has_checkable_steps, implied_answer

SUM = Problem("s", "What is 25 * 4 + 8?", "108", "number")
RULES = Problem(
    "r",
    "Tom is a cat. No dogs are red. Every cat is red. Is it true that Tom is red?",
    "yes",
    "label",
    ("yes", "no"),
    "rules",
)
ORDER = Problem(
    "o",
    "Ann is older than Bob. Ann is younger than Eve. Who is the oldest?",
    "Eve",
    "text",
    ("Ann", "Bob", "Eve"),
    "ordering",
)


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("2 + 3 * 4 = 14", [True]),
        ("2 + 3 * 4 = 20", [False]),
        ("2 - 3 * 4 + 20 / 5 = -6", [True]),
        ("10 - 4 - 3 = 3, then 3 / 2 = 1.5", [True, True]),
        ("$1,200 + $34 = $1,234", [True]),
        ("7 / 0 = 7", [False]),
        ("not False = True", [True]),
        ("True and False = True", [False]),
        ("False or True = True", [True]),
        ("x + 3 = 4 and 5 = 5", []),
        ("a * 3 + 4 = 10", []),
        ("(2 + 3) * 4 = 20", []),
        ("9" * 400 + " * 9 = 1", []),
    ],
)
def test_steps_are_worked_out_again(text, correct):
    assert [step.correct for step in find_steps(text)] == correct


def test_a_step_is_reported_as_it_was_written():
    [step] = find_steps("so 25 * 4 = 90.")

    assert (step.text, step.result) == ("25 * 4 = 90", "90")
    assert find_wrong_step(SUM, "25 + 1 = 26\n25 * 4 = 90\n1 + 1 = 3") == "25 * 4 = 90"


@pytest.mark.parametrize(
    ("problem", "thought", "expected"),
    [
        (RULES, "Tom is a cat.\nEvery cat is red.\nSo Tom is red.", None),
        (RULES, "Tom is a dog.\nEvery cat is red.", "Tom is a dog."),  # not in the question
        (RULES, "Tom is a cat.\nNo dogs are red.", "No dogs are red."),  # not about cats
        (RULES, "Tom is a cat.\nEvery cat is red.\nSo Tom is not red.", "So Tom is not red."),
        (ORDER, "Oldest to youngest: Eve > Ann > Bob", None),
        (ORDER, "Oldest to youngest: Ann > Bob > Eve", "Oldest to youngest: Ann > Bob > Eve"),
        (ORDER, "Oldest to youngest: Eve > Bob", "Oldest to youngest: Eve > Bob"),  # leaves out Ann
        (SUM, "Tom is a dog.", None),
    ],
)
def test_a_step_of_logic_must_follow_from_the_question(problem, thought, expected):
    assert find_unfounded_step(problem, thought) == expected
    assert find_wrong_step(problem, f"<think>\n{thought}\n</think>\n\\boxed{{1}}") == expected


@pytest.mark.parametrize(
    ("problem", "text", "expected"),
    [
        (SUM, "25 * 4 = 90", True),
        (SUM, "That is easy.", False),
        (RULES, "<think>\nTom is a cat.\n</think>\nyes", True),
        (RULES, "I am sure.", False),
        (ORDER, "Oldest to youngest: Eve > Bob", True),
        (ORDER, "Tom is a cat.", False),
    ],
)
def test_steps_that_can_be_checked(problem, text, expected):
    assert has_checkable_steps(problem, text) is expected


def test_the_answer_that_a_conclusion_comes_to():
    assert implied_answer(RULES, "So Tom is not red.\nSo Tom is red.") == "yes"  # the last one
    assert implied_answer(RULES, "So Tom is not red.") == "no"
    assert implied_answer(RULES, "Tom is a cat.") is None
    assert implied_answer(ORDER, "So Tom is red.") is None


@pytest.mark.parametrize("benchmark", ["arithmetic_v1", "logic_v1"])
def test_no_solution_of_ours_has_a_wrong_step(benchmark):
    for problem in load(benchmark, "dev").problems:
        assert problem.rationale
        assert find_wrong_step(problem, problem.rationale) is None, problem.rationale


def test_every_line_of_an_arithmetic_solution_is_checked():
    for problem in load("arithmetic_v1", "dev").problems:
        assert len(find_steps(problem.rationale or "")) == (problem.rationale or "").count("\n") + 1
