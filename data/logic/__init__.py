"""logic_v1: rule chains, truth values, orderings, syllogisms and analogies, each with its worked solution.

Every family is made so that its surface does not give the answer away: each wording, negation and mood comes with
either answer, and :mod:`data.generated` keeps as many of one label as of the other.
"""

import random

from data.logic.analogy import draw_analogy
from data.logic.boolean import draw_boolean
from data.logic.ordering import draw_ordering
from data.logic.rules import draw_rules
from data.logic.syllogism import draw_syllogism
from data.problem import Problem

DRAWS = {
    "analogy": draw_analogy,
    "boolean": draw_boolean,
    "ordering": draw_ordering,
    "rules": draw_rules,
    "syllogism": draw_syllogism,
}


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return tuple(DRAWS)


def draw_problem(rng: random.Random, level: int, family: str | None = None) -> Problem:
    """One problem without an id; the family is drawn too where none is named."""
    family = family or rng.choice(families(level))
    draw = DRAWS[family]

    # Some draws lead nowhere, such as to a question that is too long.
    while True:
        problem = draw(rng, level)
        if problem is not None:
            return problem
