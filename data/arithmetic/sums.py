"""sums_v1: sums and differences of one-digit numbers, for the smallest models; a level is a number of operations."""

import random
import re

from data.arithmetic.trees import Tree, list_operations, make_problem, write_infix
from data.problem import Problem

MAX_RESULT = 30


def draw_sum(rng: random.Random, level: int) -> Problem | None:
    """One problem of ``level`` operations; None where a result is out of bounds."""
    tree: Tree = rng.randint(1, 9)
    for _ in range(level):
        sign = rng.choice("+-")
        number = rng.randint(1, 9)
        tree = (sign, tree, number)

    # What is written down on the way has to be small, too.
    results = [result for _, _, _, result in list_operations(tree)]
    if min(results) < 0 or max(results) > MAX_RESULT:
        return None

    # Sums of the same numbers fall into the same split, so none is nearly one of another split.
    text = write_infix(tree)
    numbers = sorted(re.findall(r"\d", text))
    key = f"sum: {' '.join(numbers)}"
    question = f"What is {text}?"
    return make_problem("sum", level, question, tree, key)


DRAWS = {"sum": draw_sum}
