"""sums_v1: sums and differences of one-digit numbers, for the smallest models; a level is a number of operations."""

import random
import re

from data.arithmetic.trees import Tree, list_operations, make_problem, write_infix
from data.problem import Problem

MAX_RESULT = 30


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return ("sum",)


def draw_problem(rng: random.Random, level: int, family: str = "sum") -> Problem:
    """One problem of ``level`` operations, without an id."""
    while True:
        tree: Tree = rng.randint(1, 9)
        for _ in range(level):
            tree = (rng.choice("+-"), tree, rng.randint(1, 9))

        results = [result for _, _, _, result in list_operations(tree)]
        if min(results) < 0 or max(results) > MAX_RESULT:
            continue

        # Sums of the same numbers fall into the same split, so none is nearly one of another split.
        text = write_infix(tree)
        numbers = sorted(re.findall(r"\d", text))
        problem = make_problem(family, level, f"What is {text}?", tree, f"sum: {' '.join(numbers)}")
        if problem is not None:
            return problem
