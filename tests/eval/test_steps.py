"""The step checker: what it works out again, and that it accepts every solution of ours."""

import itertools
import random
import re
from dataclasses import replace

import pytest

from data.datasets import load
from data.generated import draw_problem
from data.problem import Problem
from data.solutions import has_procedure, render_solution
from eval.steps import find_steps, find_wrong_step, is_checked

PROGRAM = [["*", 25, 4, 100], ["+", 100, 8, 108]]
HOURS = Problem("g", "How many minutes are 2 hours?", "120", "number")
SUM = Problem("s", "What is 25 * 4 + 8?", "108", "number", extra={"program": PROGRAM})
RULES = Problem(
    "r",
    "Tom is a cat. No dogs are red. Every cat is red. Is it true that Tom is red?",
    "yes",
    "label",
    ("yes", "no"),
    "rules",
)
BOOLEAN = Problem("b", "Is (3 > 5) and True true?", "False", "label", ("True", "False"))
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
        ("Parts 1,2 + 3 = 5", [True]),
        ("3 + 4 = 8 + 1 = 9", [False, True]),
        ("3 + 4 = 8 - 1 = 7", [True, True]),
        ("2 - 8 = -8 + 2 = -6", [True, True]),
        ("3 + 4 = 7 = 3^2", [True]),
        ("7 / 0 = 8 / 0", [False]),
        ("7 / 0 = 7", [False]),
        ("not False = True", [True]),
        ("(3 < 5) = True", [True]),
        ("(3 > 5) = True", [False]),
        ("3 > 5 = False", [True]),
        ("True and False = True", [False]),
        ("False or True = True", [True]),
        ("x + 3 = 4 and 5 = 5", []),
        ("5 + 1 = 8 - 3x, 2 + 3 = 10 - 5(2)", []),
        ("a * 3 + 4 = 10", []),
        ("(2 + 3) * 4 = 20", []),
        ("9" * 400 + " * 9 = 1", []),
        # Only a part of these is a sum of plain numbers.
        ("10^2 + 5 = 105", []),
        ("√9 + 1 = 4, x_1 + 2 = 5, \\frac12 + 3 = 3.5", []),
        ("5 / 2 = 2 1/2, 5 + 4 = 3^2", []),
    ],
)
def test_steps_are_worked_out_again(text, correct):
    assert [step.correct for step in find_steps(text)] == correct


def test_a_step_is_reported_as_it_was_written():
    [step] = find_steps("so 25 * 4 = 90.")

    assert (step.text, step.result) == ("25 * 4 = 90", "90")
    wrong = find_wrong_step(SUM, "25 + 8 = 33\n25 * 4 = 90\n1 + 1 = 3")
    assert wrong and (wrong.text, wrong.operation) == ("25 * 4 = 90", "*")


@pytest.mark.parametrize(
    ("problem", "thought", "wrong", "operation"),
    [
        (RULES, "Tom is a cat.\nEvery cat is red.\nSo Tom is red.", None, None),
        (RULES, "Tom is a dog.\nEvery cat is red.", "Tom is a dog.", "fact"),  # not in the question
        (RULES, "Tom is a cat.\nNo dogs are red.", "No dogs are red.", "rule"),  # not about cats
        (RULES, "Tom is a cat.\nEvery cat is red.\nSo Tom is not red.", "So Tom is not red.", "conclusion"),
        (
            RULES,
            "Tom is a cat.\nEvery cat is red.\nSo Tom is red.\nAsked not red, found red: no.",
            "Asked not red, found red: no.",
            "answer",
        ),
        (RULES, "Hm, cats.\nTom is a cat.", None, None),  # the first line is not a step
        (
            ORDER,
            "Look up for the oldest.\nAnn is older than Bob: Ann < Bob",
            "Ann is older than Bob: Ann < Bob",
            "comparison",
        ),
        (SUM, "25 * 4 = 100\n100 + 9 = 109", "100 + 9 = 109", "+"),  # a number from nowhere
        (SUM, "20 * 4 = 80\n5 * 4 = 20\n80 + 20 = 100\n100 + 8 = 108", None, None),  # place by place
        (SUM, "25 * 7", "25 * 7", "*"),
        (SUM, "25 * 4 + 8 = 100 + 8 = 108", None, None),
        (SUM, "25 * 4 + 8 = 100 + 9 = 109", "25 * 4 + 8 = 100 + 9", "* +"),
        (BOOLEAN, "(3 > 5) = True\nTrue and True = True", "(3 > 5) = True", "comparison"),
        (SUM, "Tom is a dog.", None, None),
        (HOURS, "2 * 60 = 120", None, None),
        # A user's field of this name is no program of ours.
        (replace(HOURS, extra={"program": "multiply(2, 60)"}), "2 * 60 = 120", None, None),
    ],
)
def test_a_step_must_follow_from_the_question_and_the_steps_before(problem, thought, wrong, operation):
    found = find_wrong_step(problem, f"<think>\n{thought}\n</think>\n\\boxed{{1}}")

    assert (found and found.text) == wrong
    assert (found and found.operation) == operation


@pytest.mark.parametrize(
    ("problem", "text", "expected"),
    [
        (SUM, "25 * 4 = 100\n100 + 8 = 108", True),
        (SUM, "25 * 4 = 100", False),  # not the answer yet
        (SUM, "That is easy.", False),
        (Problem("g", "How much?", "9", "number"), "3 + 4 = 8 + 1 = 9", False),
        (RULES, "<think>\nTom is a cat.\nEvery cat is red.\nSo Tom is red.\n</think>\nyes", False),
        (
            RULES,
            "<think>\nTom is a cat.\nEvery cat is red.\nSo Tom is red.\nAsked red, found red: yes.\n</think>\nyes",
            True,
        ),
        (RULES, "<think>\nTom is a cat.\nSo Tom is red.\n</think>\nyes", False),
        (RULES, "I am sure.", False),
    ],
)
def test_checked_steps_come_to_the_answer(problem, text, expected):
    assert is_checked(problem, text) is expected


@pytest.mark.parametrize(
    ("family", "question", "text"),
    [
        (
            "syllogism",
            "Some cats are dogs. Some dogs are pigs. Does it follow that all cats are pigs?",
            "Suppose not: some cats are not pigs.",
        ),
        ("ordering", "Who is the tallest?", "Who is the tallest: up."),
        (
            "rules",
            "Tom is a cat. Every cat is a pet. No pet is rude. Every cat is loud. Is it true that Tom is loud?",
            "Tom is a cat.\nEvery cat is a pet.\nNo pet is rude.\nSo Tom is not rude.\nAsked loud, found not rude: no.",
        ),
    ],
)
def test_a_problem_of_a_users_family_has_no_procedure(family, question, text):
    problem = Problem("u", question, "yes", "label", ("yes", "no"), family=family)

    assert not has_procedure(problem)
    assert not is_checked(problem, text)


FAMILIES = {
    "arithmetic_v1": ("chain", "expression", "word"),
    "logic_v1": ("analogy", "boolean", "ordering", "rules", "syllogism"),
}


@pytest.fixture(scope="module")
def solutions() -> dict[str, list[tuple[Problem, list[str]]]]:
    """The problems of each family with the lines of their solutions."""
    by_family: dict[str, list[tuple[Problem, list[str]]]] = {}
    for benchmark in FAMILIES:
        for problem in load(benchmark, "train").problems:
            lines = render_solution(problem, "procedure").split("\n")
            by_family.setdefault(problem.family, []).append((problem, lines))
    return by_family


def test_every_solution_of_ours_is_checked(solutions):
    assert set(solutions) == {family for families in FAMILIES.values() for family in families}
    for family in solutions:
        for problem, lines in solutions[family]:
            assert is_checked(problem, "\n".join(lines)), lines


@pytest.mark.parametrize(
    ("benchmark", "family"),
    [(benchmark, family) for benchmark, families in FAMILIES.items() for family in families],
)
def test_a_thousand_new_solutions_are_checked(benchmark, family):
    rng = random.Random(7)
    # A chain has three steps or more.
    levels = (3, 4, 5) if family == "chain" else (1, 2, 3, 4, 5)
    for number in range(1000):
        problem = draw_problem(benchmark, rng, levels[number % len(levels)], family)
        assert is_checked(problem, render_solution(problem, "procedure")), problem


@pytest.mark.parametrize("style", ["short", "long"])
def test_the_older_styles_of_arithmetic_are_checked(style):
    for problem in load("arithmetic_v1", "dev").problems:
        assert is_checked(problem, render_solution(problem, style))


SPOILINGS = ("doubled", "left out", "foreign", "another number")
# Their solutions have no numbers.
WITHOUT_NUMBERS = ("analogy", "ordering", "rules", "syllogism")
SPOILED = [
    (family, spoiling)
    for family in itertools.chain(*FAMILIES.values())
    for spoiling in SPOILINGS
    if spoiling != "another number" or family not in WITHOUT_NUMBERS
]


@pytest.mark.parametrize(("family", "spoiling"), SPOILED)
def test_a_spoiled_solution_is_caught(solutions, family, spoiling):
    rng = random.Random(0)
    spoiled = []
    caught = 0
    for (problem, lines), (_, others) in itertools.pairwise(solutions[family]):
        place = rng.randrange(len(lines))
        changed = spoil(lines, place, rng.choice(others), spoiling, rng)
        if changed != lines:
            spoiled.append(changed)
            caught += not is_checked(problem, "\n".join(changed))

    assert len(spoiled) > 50
    # Some are no faults: a sum that need not be announced, or one that is true here too.
    share = 0.7 if spoiling == "left out" else 0.9
    if family in FAMILIES["logic_v1"]:
        share = 0.97
    assert caught >= share * len(spoiled)


def spoil(lines: list[str], place: int, foreign: str, spoiling: str, rng: random.Random) -> list[str]:
    before, line, after = lines[:place], lines[place], lines[place + 1 :]
    if spoiling == "doubled":
        return [*before, line, line, *after]
    if spoiling == "left out":
        return [*before, *after] if len(lines) > 1 else lines
    if spoiling == "foreign":
        return lines if foreign in lines else [*before, foreign, line, *after]

    numbers = list(re.finditer(r"\d+", line))
    if not numbers:
        return lines
    number = rng.choice(numbers)
    value = int(number[0]) + rng.choice((1, 2, 10))
    return [*before, f"{line[: number.start()]}{value}{line[number.end() :]}", *after]
