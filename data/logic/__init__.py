"""logic_v1: rule chains, truth values, orderings, syllogisms and analogies, each with its worked solution.

Every family is made so that its surface does not give the answer away: each wording, negation and mood comes with
either answer, and :mod:`data.generated` keeps as many of one label as of the other.
"""

import random

from data.logic import analogy, boolean, ordering, rules, syllogism
from data.problem import Problem

DRAWS = {
    "analogy": analogy.draw_analogy,
    "boolean": boolean.draw_boolean,
    "ordering": ordering.draw_ordering,
    "rules": rules.draw_rules,
    "syllogism": syllogism.draw_syllogism,
}
PROCEDURES = {
    "analogy": analogy.list_next_lines,
    "boolean": boolean.list_next_lines,
    "ordering": ordering.list_next_lines,
    "rules": rules.list_next_lines,
    "syllogism": syllogism.list_next_lines,
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
