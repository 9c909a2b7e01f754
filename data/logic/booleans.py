"""booleans_v1: logic_v1's truth values alone, for the smallest models; the level is the number of operators."""

import random
import re
from dataclasses import replace

from data.logic.boolean import draw_boolean
from data.problem import Problem

TEXTS = ("What is {}?",)
# How often a leaf is a comparison. There is at least one, for constants alone give few expressions, and like ones.
COMPARISONS = 0.4


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return ("boolean",)


def draw_problem(rng: random.Random, level: int, family: str = "boolean") -> Problem:
    """One problem without an id."""
    while True:
        problem = draw_boolean(rng, level, TEXTS, COMPARISONS)
        if problem is None:
            continue

        # Expressions of the same numbers fall into the same split, so none is nearly one of another split.
        numbers = sorted(re.findall(r"\d", problem.question))
        if numbers:
            return replace(problem, extra={"key": f"boolean: {' '.join(numbers)}"})
