"""Orderings: neighbors in a row are compared, and someone in it is asked for."""

import itertools
import random
import re
from collections.abc import Sequence
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


_WORDS = (
    "taller shorter tallest shortest",
    "older younger oldest youngest",
    "faster slower fastest slowest",
    "heavier lighter heaviest lightest",
    "richer poorer richest poorest",
    "stronger weaker strongest weakest",
    "louder quieter loudest quietest",
)
SCALES = [Scale(*words.split()) for words in _WORDS]
_KNOWN_WORDS = set(" ".join(_WORDS).split())


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


def _compare(
    rng: random.Random,
    scale: Scale,
    ahead: str,
    behind: str,
) -> tuple[str, str, str]:
    """Two people in either way of saying that the first of them is ahead."""
    if rng.random() < 0.5:
        return ahead, scale.more, behind
    return behind, scale.less, ahead


def _write_row(scale: Scale, row: list[str]) -> str:
    return f"{capitalize_first(scale.most)} to {scale.least}: {' > '.join(row)}"


def _ask_whether(
    rng: random.Random,
    level: int,
    row: list[str],
    scale: Scale,
    premises: list[str],
) -> Problem | None:
    places = rng.sample(range(len(row)), 2)
    ahead = row[min(places)]
    behind = row[max(places)]

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
    answer = "yes" if is_so else "no"
    key = f"{scale.more}: {' > '.join(row)}: {ahead}, {behind}"
    return make_problem("ordering", level, question, answer, YES_NO, solution, key)


def _ask_who(
    rng: random.Random,
    level: int,
    row: list[str],
    scale: Scale,
    premises: list[str],
) -> Problem | None:
    # The ends of the row, and from level 3 on the second from either end.
    places = (0, -1) if level < 3 else (0, 1, -2, -1)
    place = rng.choice(places)
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
    # In another order than the row's.
    choices = tuple(rng.sample(row, len(row)))
    question = " ".join([*premises, ask])
    key = f"{scale.more}: {' > '.join(row)}: {answer}"
    return make_problem("ordering", level, question, answer, choices, solution, key)


# The procedure: every comparison is written one way round, then one name leads to the next.

_PREMISE = re.compile(r"(\w+) is (\w+) than (\w+)\.")
_WHETHER = re.compile(r"Is (\w+) (\w+) than (\w+)\?")
_WHO = re.compile(r"Who is (?:the )?((?:second )?(\w+))\?")


def list_next_lines(question: str, lines: Sequence[str]) -> list[str]:
    """The lines that may follow ``lines`` in a solution of the question; none after the last one."""
    whether = _WHETHER.search(question)
    who = _WHO.search(question)
    premises = list(_PREMISE.finditer(question))
    # An ordering that is none of ours.
    if not premises or not (whether or who):
        return []
    # Of other words it is not known which end they are of: "smarter".
    words = [found[2] for found in (*premises, whether, who) if found]
    if not all(word in _KNOWN_WORDS for word in words):
        return []

    looks_up = bool(who and _is_more(who[2]))
    start = goal = rank = ""
    if whether:
        start, goal = _sort_names(*whether.groups())
        head = f"{whether[0][:-1]}: from {start} down to {goal}."
    elif who:
        rank = who[1]
        head = f"{who[0][:-1]}: {'up' if looks_up else 'down'}."
    if not lines:
        return [head]

    neighbors = {}
    unread = []
    for premise in premises:
        ahead, behind = _sort_names(*premise.groups())
        line = f"{premise[0][:-1]}: {ahead} > {behind}"
        if looks_up:
            line += f", {behind} < {ahead}"
            neighbors[behind] = ahead
        else:
            neighbors[ahead] = behind
        if line not in lines:
            unread.append(line)
    if unread:
        return unread

    # The walk begins where the question says, else with the first comparison.
    sign = "<" if looks_up else ">"
    walked = lines[1 + len(neighbors) :]
    walk = [line.split(f" {sign} ") for line in walked]
    if not walk:
        start = start or re.findall(rf"(\w+) {sign}", lines[1])[0]
        return [f"{start} {sign} {neighbors.get(start, 'none')}"]
    # The line that ends it is not a pair.
    if len(walk[-1]) == 1:
        return []

    before, reached = walk[-1]
    if goal and reached == goal:
        return [f"{goal} is found, so yes."]
    if reached != "none":
        return [f"{reached} {sign} {neighbors.get(reached, 'none')}"]
    if goal:
        return [f"{goal} is not found, so no."]

    # At the end of the row: its last name, or the one before.
    name = walk[-2][0] if rank.startswith("second") else before
    return [f"So {rank}: {name}."]


def _sort_names(a: str, word: str, b: str) -> tuple[str, str]:
    """The two names of a comparison, first the one that is ahead."""
    return (a, b) if _is_more(word) else (b, a)


def _is_more(word: str) -> bool:
    """Whether a comparative or a superlative is of the end that :class:`Scale` calls "more"."""
    return any(word in (scale.more, scale.most) for scale in SCALES)
