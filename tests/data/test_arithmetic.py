"""Every committed answer of arithmetic_v1 is worked out again here, from the question's text."""

import ast
import operator
import random
import re
from collections import Counter, defaultdict
from fractions import Fraction

import pytest

from data.generated import draw_problem, list_families

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
OPERATIONS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}


@pytest.fixture(scope="module")
def problems(committed):
    return [p for (name, _), split in committed.items() if name == "arithmetic_v1" for p in split]


def compute(text):
    def walk(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[SYMBOLS[type(node.op)]](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return Fraction(node.value)

    return walk(ast.parse(text, mode="eval").body)


def test_expressions(of_family):
    for problem in of_family("expression"):
        text = re.search(r"\(*\d[\d\s+\-*/()]*", problem.question).group().strip()
        assert compute(text) == int(problem.answer), problem.question


def test_chains(of_family):
    verbs = {"add": "+", "increase the number by": "+", "subtract": "-", "take away": "-"}
    verbs |= {"multiply by": "*", "divide by": "/"}
    pattern = r"(" + "|".join(verbs) + r"|^\w+(?: with)?) (\d+)"

    for problem in of_family("chain"):
        first, *steps = re.findall(pattern, problem.question, re.IGNORECASE)
        assert len(steps) == OPERATIONS[problem.level]

        value = Fraction(first[1])
        for verb, number in steps:
            value = OPERATORS[verbs[verb.lower()]](value, int(number))
        assert value == int(problem.answer), problem.question


def test_programs_use_every_number_once_and_end_in_the_answer(problems):
    for problem in problems:
        assert len(problem.extra["program"]) == OPERATIONS[problem.level]
        unused = Counter(map(int, re.findall(r"\d+", problem.question.replace("twice", "2 times"))))
        results = []

        for op, left, right, result in problem.extra["program"]:
            assert OPERATORS[op](Fraction(left), right) == result >= 0, problem
            for operand in (left, right):
                if unused[operand]:
                    unused[operand] -= 1
                else:
                    results.remove(operand)
            results.append(result)

        assert results == [int(problem.answer)], problem
        assert not unused.total(), problem


def test_every_line_of_a_solution_is_one_true_equation(problems):
    for problem in problems:
        for line in problem.rationale.split("\n"):
            label, _, equation = line.rpartition(": ")
            left, result = equation.split(" = ")
            assert compute(left) == int(result), line
            assert len(left.split()) == 3, line
            assert len(label.split()) <= 4, line
        assert result == problem.answer


def test_numbers_stay_small_and_products_are_split(problems):
    for problem in problems:
        assert 0 <= int(problem.answer) <= 9999
        if problem.level == 1:
            assert max(map(int, re.findall(r"\d+", problem.question))) <= 100

        for a, b in re.findall(r"(\d+) \* (\d+) =", problem.rationale):
            small, large = sorted((int(a.rstrip("0") or 0), int(b.rstrip("0") or 0)))
            assert large < 10 or small <= 2, problem.rationale


def test_word_problems_vary(of_family):
    templates = defaultdict(set)
    for problem in of_family("word"):
        templates[len(problem.extra["program"])].add(problem.extra["key"].split(":")[1])
    assert set(templates) == {1, 2, 3, 4}
    assert min(map(len, templates.values())) >= 20


def test_a_sum_has_one_key_in_any_order_and_wording(of_family):
    keys = defaultdict(set)
    for problem in of_family("expression"):
        if problem.level == 1:
            a, op, b = re.search(r"(\d+) ([+*/-]) (\d+)", problem.question).groups()
            operands = sorted((a, b)) if op in "+*" else (a, b)
            keys[op, *operands].add(problem.extra["key"])

    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == len(keys) > 100


def test_a_family_is_drawn_where_none_is_named():
    rng = random.Random(1)
    drawn = {draw_problem("arithmetic_v1", rng, 4).family for _ in range(30)}
    assert drawn == set(list_families("arithmetic_v1", 4)) == {"chain", "expression", "word"}
    assert draw_problem("arithmetic_v1", rng, 2, "word").family == "word"
