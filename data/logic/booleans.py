"""booleans_v1: logic_v1's truth values alone, for the smallest models; the level is the number of operators."""

import random
import re
from dataclasses import replace

from data.logic.boolean import draw_boolean
from data.problem import Problem

TEXTS = ("What is {}?",)
# How often a leaf is a comparison. There is at least one, for constants alone give few expressions, and like ones.
COMPARISONS = 0.4


def draw_comparison(rng: random.Random, level: int) -> Problem | None:
    """One expression with a comparison; None where the draw leads nowhere."""
    problem = draw_boolean(rng, level, TEXTS, COMPARISONS)
    numbers = sorted(re.findall(r"\d", problem.question)) if problem else []
    if problem is None or not numbers:
        return None

    # Expressions of the same numbers fall into the same split, so none is nearly one of another split.
    return replace(problem, extra={"key": f"boolean: {' '.join(numbers)}"})


DRAWS = {"boolean": draw_comparison}
