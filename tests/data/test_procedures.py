"""Solutions as procedures: they come to the answer, and say nothing of it before the line that derives it."""

import math
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from data import logic
from data.datasets import load
from data.generated import draw_problem
from data.problem import Problem
from data.solutions import render_solution, write_procedure, write_short

RULES = "Tom is a cat. No dogs are red. Every cat is red. Is it true that Tom is red?"
ORDER = "Ann is older than Bob. Ann is younger than Eve. Bob is older than Dan. "
VALID = "All cats are dogs. All dogs are pigs. Therefore, all cats are pigs. Is this argument valid or invalid?"

# The second line is of either bracket.
LINES = ["(5 > 1) = True", "True or False = True"]


def solve(family: str, question: str) -> list[str]:
    return write_procedure(Problem("p", question, "", "label", family=family)).split("\n")


def read_answer(problem: Problem, lines: list[str]) -> str:
    """The answer that the last line gives, read without the code that wrote it."""
    last = lines[-1].rstrip(".")
    return re.split(r"[ =:]+", last)[-1]


@pytest.mark.parametrize("family", logic.PROCEDURES)
def test_every_solution_comes_to_the_answer(family):
    problems = [problem for problem in load("logic_v1", "train").problems if problem.family == family]
    assert len(problems) == 400

    for problem in problems:
        lines = render_solution(problem, "procedure").split("\n")
        assert read_answer(problem, lines) == problem.answer, problem


def test_what_the_rules_come_to_is_compared_with_what_is_asked():
    lines = ["Tom is a cat.", "Every cat is red.", "So Tom is red."]
    assert solve("rules", RULES) == [*lines, "Asked red, found red: yes."]
    assert solve("rules", RULES.replace("is red?", "is not red?")) == [*lines, "Asked not red, found red: no."]

    negated = RULES.replace("Every cat is red", "No cat is red").replace("is red?", "is not red?")
    assert solve("rules", negated)[-2:] == ["So Tom is not red.", "Asked not red, found not red: yes."]


def test_a_walk_goes_the_way_that_the_question_looks():
    assert solve("ordering", ORDER + "Is Bob younger than Eve?") == [
        "Is Bob younger than Eve: from Eve down to Bob.",
        "Ann is older than Bob: Ann > Bob",
        "Ann is younger than Eve: Eve > Ann",
        "Bob is older than Dan: Bob > Dan",
        "Eve > Ann",
        "Ann > Bob",
        "Bob is found, so yes.",
    ]
    assert solve("ordering", ORDER + "Is Bob older than Eve?")[4:] == [
        "Bob > Dan",
        "Dan > none",
        "Eve is not found, so no.",
    ]
    assert solve("ordering", ORDER + "Who is the second oldest?") == [
        "Who is the second oldest: up.",
        "Ann is older than Bob: Ann > Bob, Bob < Ann",
        "Ann is younger than Eve: Eve > Ann, Ann < Eve",
        "Bob is older than Dan: Bob > Dan, Dan < Bob",
        "Bob < Ann",
        "Ann < Eve",
        "Eve < none",
        "So second oldest: Ann.",
    ]


def test_a_refutation_applies_the_premises_in_turn():
    assert solve("syllogism", VALID) == [
        "Suppose not: some cats are not pigs.",
        "Some cats are not pigs: cat yes, pig no.",
        "All cats are dogs: cat yes, dog unknown, so dog yes.",
        "All dogs are pigs: dog yes, pig no, impossible.",
        "So valid.",
    ]
    assert solve("syllogism", VALID.replace("All dogs are pigs", "All pigs are dogs"))[2:] == [
        "All cats are dogs: cat yes, dog unknown, so dog yes.",
        "All pigs are dogs: pig no, dog yes, nothing new.",
        "All cats are dogs: cat yes, dog yes, nothing new.",
        "So invalid.",
    ]


@pytest.mark.parametrize(
    ("family", "question", "other", "deriving"),
    [
        ("rules", RULES, RULES.replace("Every cat is red", "No cat is red"), 1),
        ("boolean", "What is (not True) or (True and False)?", "What is (not True) or (True and True)?", 1),
        ("ordering", ORDER + "Who is the oldest?", ORDER + "Who is the second oldest?", 7),
        ("syllogism", VALID, VALID.replace("All dogs are pigs", "All pigs are dogs"), 3),
        (
            "analogy",
            "Up is to down as hot is to what? Choose from: cold, small, slow.",
            "Up is to down as big is to what? Choose from: cold, small, slow.",
            1,
        ),
    ],
)
def test_two_problems_agree_up_to_the_line_that_makes_the_difference(family, question, other, deriving):
    lines = solve(family, question)
    others = solve(family, other)

    # An ordering's first line says what is asked.
    skipped = 1 if family == "ordering" else 0
    assert lines[skipped:deriving] == others[skipped:deriving]
    assert lines[deriving] != others[deriving]


def test_two_sums_agree_up_to_the_line_that_makes_the_difference():
    programs = [[("*", 12, 3, 36), ("-", 36, b, 36 - b)] for b in (17, 18)]
    problem, other = (
        Problem("p", "", "", "number", rationale=write_short(program), extra={"program": program})
        for program in programs
    )
    lines = render_solution(problem, "procedure").split("\n")
    others = render_solution(other, "procedure").split("\n")

    assert lines.index("36 - 17") == others.index("36 - 18") > 1
    assert lines[: lines.index("36 - 17")] == others[: lines.index("36 - 17")]


@pytest.mark.parametrize("family", ["ordering", "rules", "syllogism"])
def test_the_first_line_does_not_tell_the_answer(family):
    """A naive Bayes classifier of its words is within chance on 500 problems that it has not seen."""
    rng = random.Random(1)
    problems: list[Problem] = []
    while len(problems) < 1000:
        problem = draw_problem("logic_v1", rng, rng.choice((1, 2, 3, 4, 5)), family)
        if problem.kind == "label":
            problems.append(problem)
    train, held_out = problems[:500], problems[500:]

    words = defaultdict(Counter)
    for problem in train:
        words[problem.answer].update(first_line(problem).split())

    vocabulary = {word for counts in words.values() for word in counts}
    right = 0
    for problem in held_out:
        scores = {}
        for answer, counts in words.items():
            total = sum(counts.values()) + len(vocabulary)
            scores[answer] = sum(math.log((counts[word] + 1) / total) for word in first_line(problem).split())
        right += max(scores, key=scores.get) == problem.answer

    # Three standard errors of a coin.
    assert abs(right / len(held_out) - 0.5) < 3 * 0.5 / math.sqrt(len(held_out))


def first_line(problem: Problem) -> str:
    return render_solution(problem, "procedure").split("\n")[0]


def test_any_path_that_the_rules_allow_comes_to_the_same_answer():
    rng = random.Random(0)
    for problem in load("logic_v1", "dev").problems:
        lines: list[str] = []
        while allowed := logic.PROCEDURES[problem.family](problem.question, lines):
            lines.append(rng.choice(allowed))

        assert read_answer(problem, lines) == problem.answer


def test_a_solution_is_the_same_in_every_process(root):
    """With one line of two places, there are two expressions to go on with; sets would order them by Python's hash."""
    question = "What is (not ((5 > 1) or False)) and (True or False)?"
    script = f"from data.logic.boolean import list_next_lines as f; print(f({question!r}, {LINES!r}))"
    outputs = set()
    for seed in ("1", "2", "3", "4"):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=root, env={"PYTHONHASHSEED": seed}, capture_output=True
        )
        outputs.add(done.stdout)
    assert outputs == {b"['not True = False', 'True or False = True']\n"}


def test_a_question_of_another_kind_has_no_procedure():
    for family in logic.PROCEDURES:
        assert write_procedure(Problem("p", "Why not?", "yes", "label", family=family)) == ""
