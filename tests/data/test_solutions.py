"""Worked solutions: the four styles, and rationales with marks."""

import re

import pytest

from data import logic
from data.problem import Problem
from data.solutions import (
    STYLES,
    has_procedure,
    render_solution,
    solution_from_marks,
    split_difference,
    split_product,
    write_short,
)

PROGRAM = [["*", 7, 17, 119], ["-", 166, 119, 47], ["+", 47, 3, 50]]
SHORT = "10 * 7 = 70\n7 * 7 = 49\nDollars: 70 + 49 = 119\nNeeded: 166 - 119 = 47\nIn all: 47 + 3 = 50"


def make(rationale, program=None):
    extra = {"program": program} if program else {}
    return Problem("p", "How many?", "50", "number", rationale=rationale, extra=extra)


def test_the_short_style_is_as_stored():
    assert render_solution(make(SHORT, PROGRAM), "short") == SHORT


def test_the_long_style_names_an_operation_then_works_it_place_by_place():
    assert render_solution(make(SHORT, PROGRAM), "long").split("\n") == [
        "Dollars: 7 * 17",
        "10 * 7 = 70",
        "7 * 7 = 49",
        "70 + 49 = 119",
        "Needed: 166 - 119",
        "166 - 100 = 66",
        "66 - 10 = 56",
        "56 - 9 = 47",
        "In all: 47 + 3 = 50",
    ]


@pytest.mark.parametrize(
    ("rationale", "program"),
    [
        ("7 * 17 is 119.", PROGRAM),
        ("Dollars: 7 * 17 = 119", PROGRAM),
        ("9 - 4 = 5", "subtract(9, 4)"),
        ("9 - 4 = 5", [["-", 9, 4]]),
        ("9 - 4 = 5", [["-", "9", "4", "5"]]),
    ],
)
def test_a_users_solution_stays_whatever_the_field_program_has(rationale, program):
    assert render_solution(make(rationale, program), "procedure") == rationale


def test_an_operation_is_worked_out_in_the_same_way_whether_or_not_it_borrows():
    def work_out(op, left, right, result):
        operation = (op, left, right, result)
        return render_solution(make(write_short([operation]), [list(operation)]), "procedure").split("\n")

    assert work_out("-", 53, 37, 16) == ["53 - 37", "53 - 30 = 23", "23 - 7 = 16"]
    assert work_out("-", 57, 33, 24) == ["57 - 33", "57 - 30 = 27", "27 - 3 = 24"]
    assert work_out("+", 37, 55, 92) == ["37 + 55 = 92"]
    assert work_out("*", 94, 23, 2162)[-2:] == ["270 + 12 = 282", "1880 + 282 = 2162"]


def test_the_long_style_without_labels_or_operations():
    assert render_solution(make("92 - 88 = 4", [["-", 92, 88, 4]]), "long") == "92 - 88\n92 - 80 = 12\n12 - 8 = 4"
    assert render_solution(make("Take any wug."), "long") == "Take any wug."


@pytest.mark.parametrize("family", logic.PROCEDURES)
def test_a_solution_of_a_foreign_problem_stays_as_it_is_whatever_its_family(family):
    problem = Problem("p", "Who is taller?", "Ann", "text", family=family, rationale="Ann has 2 m.\nBob has 1 m.")
    assert render_solution(problem, "procedure") == problem.rationale


@pytest.mark.parametrize(
    ("family", "question", "answer"),
    [
        # These would go on without end.
        ("rules", "Tom is a wug. Every wug is a zorp. Every zorp is a wug. Is it true that Tom is slow?", "yes"),
        ("ordering", "Ann is taller than Bob. Bob is taller than Ann. Is Ann taller than Zed?", "no"),
        # Two rules of a wug, of which ours would take the first.
        ("rules", "Tom is a wug. No wug is shy. Every wug is loud. Is it true that Tom is loud?", "yes"),
        ("rules", "Tom is a wug. No wug is shy. Every wug is loud. Is it true that Tom is not loud?", "no"),
        # Two are taller than Cat, and ours would go on from the last one alone.
        ("ordering", "Ann is taller than Bob. Ann is taller than Cat. Is Ann taller than Bob?", "yes"),
        # Which end is "smarter"?
        ("ordering", "Ann is smarter than Bob. Cat is dumber than Bob. Is Ann smarter than Cat?", "yes"),
        ("ordering", "Ann is smarter than Bob. Cat is dumber than Bob. Is Cat dumber than Ann?", "yes"),
        ("syllogism", "All cats are not dogs. All dogs are pigs. Therefore, all cats are pigs.", "invalid"),
    ],
)
def test_a_question_that_only_looks_like_ours_is_not_solved_as_ours(family, question, answer):
    problem = Problem("p", question, answer, "label", family=family, rationale="As a rule.")
    assert not has_procedure(problem)
    assert render_solution(problem, "procedure") == "As a rule."


def test_a_procedure_is_written_once_for_all_samples_of_a_problem(monkeypatch):
    calls = []
    monkeypatch.setitem(logic.PROCEDURES, "rules", lambda question, lines: calls.append(question))
    for _ in range(3):
        has_procedure(Problem("p", "Once?", "yes", "label", family="rules"))
    assert calls == ["Once?"]


def test_every_committed_problem_of_logic_has_a_procedure(all_problems):
    of_logic = [problem for problem in all_problems if problem.family in logic.PROCEDURES]
    assert len(of_logic) > 6000
    assert all(map(has_procedure, of_logic))


def test_prose_is_one_paragraph():
    assert render_solution(make("a: 1 + 1 = 2\nSo it is."), "prose") == "a: 1 + 1 = 2. So it is."


@pytest.mark.parametrize("style", STYLES)
def test_every_equation_of_every_style_is_true(committed, style):
    for problem in committed["arithmetic_v1", "train"]:
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", render_solution(problem, style))
        assert equations and equations[-1][3] == problem.answer

        for left, op, right, result in equations:
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": a == b * c}[op]


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        (7, 8, ["7 * 8 = 56"]),
        (40, 20, ["40 * 20 = 800"]),
        (2, 48, ["2 * 48 = 96"]),
        (12, 30, ["30 * 10 = 300", "30 * 2 = 60", "300 + 60 = 360"]),
        (17, 7, ["10 * 7 = 70", "7 * 7 = 49", "70 + 49 = 119"]),
    ],
)
def test_products(a, b, lines):
    assert split_product(a, b) == lines


def test_differences():
    assert split_difference(305, 102) == ["305 - 100 = 205", "205 - 2 = 203"]
    assert split_difference(5, 0) == ["5 - 0 = 5"]


def test_calculator_marks_become_steps():
    rationale = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72 clips."
    assert solution_from_marks(rationale) == "48 / 2 = 24\n48 + 24 = 72"
    assert solution_from_marks("No marks.\nAt all.") == "No marks.\nAt all."
