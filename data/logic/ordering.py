"""Orderings: neighbors in a row are compared, and someone in it is asked for."""

import itertools
import random
from dataclasses import dataclass

from data.logic.problems import YES_NO, draw_names, make_problem
from data.problem import Problem
from data.words import capitalize_first


@dataclass(frozen=True)
class Scale:
    """The words of one quality."""

    more: str
    less: str
    most: str
    least: str


SCALES = (
    Scale("taller", "shorter", "tallest", "shortest"),
    Scale("older", "younger", "oldest", "youngest"),
    Scale("faster", "slower", "fastest", "slowest"),
    Scale("heavier", "lighter", "heaviest", "lightest"),
    Scale("richer", "poorer", "richest", "poorest"),
    Scale("stronger", "weaker", "strongest", "weakest"),
    Scale("louder", "quieter", "loudest", "quietest"),
)


def draw_ordering(rng: random.Random, level: int) -> Problem | None:
    """One row of ``level`` + 1 people, and a question of yes or no, or of who."""
    row = draw_names(rng, level + 1)
    scale = rng.choice(SCALES)

    # Each neighbor is compared with the next, so that the row is the only one that fits.
    premises = []
    for ahead, behind in itertools.pairwise(row):
        a, word, b = _compare(rng, scale, ahead, behind)
        premises.append(f"{a} is {word} than {b}.")
    if level >= 3:
        rng.shuffle(premises)
    elif rng.random() < 0.5:
        premises.reverse()

    if rng.random() < 0.5:
        return _ask_whether(rng, level, row, scale, premises)
    return _ask_who(rng, level, row, scale, premises)


def _compare(rng: random.Random, scale: Scale, ahead: str, behind: str) -> tuple[str, str, str]:
    """Two people in either way of saying that the first of them is ahead."""
    return (ahead, scale.more, behind) if rng.random() < 0.5 else (behind, scale.less, ahead)


def _write_row(scale: Scale, row: list[str]) -> str:
    return f"{capitalize_first(scale.most)} to {scale.least}: {' > '.join(row)}"


def _ask_whether(rng: random.Random, level: int, row: list[str], scale: Scale, premises: list[str]) -> Problem | None:
    first, second = sorted(rng.sample(range(len(row)), 2))
    ahead = row[first]
    behind = row[second]

    a, word, b = _compare(rng, scale, ahead, behind)
    is_so = rng.random() < 0.5
    # For "no" the same words, the other way round: the wording says nothing about the answer.
    if not is_so:
        a, b = b, a

    solution = [
        _write_row(scale, row),
        f"{ahead} comes before {behind}.",
        f"So {a} is {'' if is_so else 'not '}{word} than {b}.",
    ]
    question = " ".join([*premises, f"Is {a} {word} than {b}?"])
    key = f"{scale.more}: {' > '.join(row)}: {ahead}, {behind}"
    return make_problem("ordering", level, question, "yes" if is_so else "no", YES_NO, solution, key)


def _ask_who(rng: random.Random, level: int, row: list[str], scale: Scale, premises: list[str]) -> Problem | None:
    place = rng.choice((0, -1) if level < 3 else (0, 1, -2, -1))
    from_top = place >= 0

    # Of two people, one is "taller", and nobody is "the tallest".
    if level == 1:
        rank = scale.more if from_top else scale.less
        ask = f"Who is {rank}?"
    else:
        rank = scale.most if from_top else scale.least
        rank = f"second {rank}" if place in (1, -2) else rank
        ask = f"Who is the {rank}?"

    answer = row[place]
    solution = [_write_row(scale, row), f"{capitalize_first(rank)}: {answer}"]
    choices = tuple(rng.sample(row, len(row)))
    key = f"{scale.more}: {' > '.join(row)}: {answer}"
    return make_problem("ordering", level, " ".join([*premises, ask]), answer, choices, solution, key)
