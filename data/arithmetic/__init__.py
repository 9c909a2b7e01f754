"""arithmetic_v1: whole-number problems of one to four operations, each with its worked solution."""

import random

from data.arithmetic.chain import draw_chain
from data.arithmetic.expression import draw_expression
from data.arithmetic.word import draw_word
from data.problem import Problem

DRAWS = {"expression": draw_expression, "chain": draw_chain, "word": draw_word}


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return ("expression", "word") if level <= 2 else ("chain", "expression", "word")


def draw_problem(rng: random.Random, level: int, family: str | None = None) -> Problem:
    """One problem without an id; the family is drawn too where none is named."""
    family = family or rng.choice(families(level))
    draw = DRAWS[family]

    # Many draws lead nowhere, such as to a number that is too large.
    while True:
        problem = draw(rng, level)
        if problem is not None:
            return problem
