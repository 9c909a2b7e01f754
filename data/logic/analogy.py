"""Analogies: two pairs of one relation, with one side of the second to be chosen."""

import itertools
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data.logic.problems import make_problem
from data.logic.relations import Pair, Relation, read_relations
from data.problem import Problem
from data.splits import split_of
from data.words import capitalize_first


@dataclass(frozen=True)
class WrongChoices:
    """How many wrong choices come from where."""

    from_others: int  # words of other relations
    from_same: int
    from_scene: int  # the word of the pair's scene: 1 or 0


# By level: the nearer to the answer, the harder.
WRONG_CHOICES = {
    1: WrongChoices(3, 0, 0),
    2: WrongChoices(2, 1, 0),
    3: WrongChoices(1, 2, 0),
    4: WrongChoices(0, 2, 1),
    5: WrongChoices(0, 3, 1),
}
TEXTS = (
    "{} is to {} as {} is to {}? Choose from: {}.",
    "Complete the analogy: {} is to {} as {} is to {}? Choose from: {}.",
    "Which word fits? {} is to {} as {} is to {}. Choose from: {}.",
)


def draw_analogy(rng: random.Random, level: int) -> Problem | None:
    """One analogy; None where what it shows belongs to another split, or a choice stands twice."""
    relation = rng.choice(read_relations())
    example, target = rng.sample(relation.pairs, 2)
    key = _make_key(relation, target)

    # What is asked decides the split; so what is shown must not be what another split asks, but train may be shown.
    example_split = split_of(f"analogy: {_make_key(relation, example)}")
    if example_split not in ("train", split_of(f"analogy: {key}")):
        return None

    side = rng.choice(relation.sides)
    answer = target[side]
    clue = target[1 - side]
    choices = _draw_choices(rng, level, relation, example, target, side)
    if len(set(choices)) < len(choices):
        return None
    # The answer stands first until then.
    rng.shuffle(choices)

    question = _write_question(rng, example, clue, side, choices)
    solution = [_write_example(relation, example), _write_answer(relation, target, side)]
    return make_problem("analogy", level, question, answer, tuple(choices), solution, key)


def _make_key(relation: Relation, pair: Pair) -> str:
    return f"{relation.phrase}: {pair[0]} {pair[1]}"


def _draw_choices(
    rng: random.Random,
    level: int,
    relation: Relation,
    example: Pair,
    target: Pair,
    side: int,
) -> list[str]:
    """The answer, and behind it the wrong choices."""
    counts = WRONG_CHOICES[level]
    clue = target[1 - side]
    # No word of the question is a choice.
    taken = {*example, *target}

    elsewhere = []
    for other, other_side in itertools.product(read_relations(), (0, 1)):
        if _may_lend(other, other_side, relation.kinds[side], clue):
            elsewhere += _list_words(other, other_side, taken)
    same = _list_words(relation, side, taken)
    scene = [target[2]]

    choices = [target[side]]
    choices += rng.sample(elsewhere, counts.from_others)
    choices += rng.sample(same, counts.from_same)
    choices += scene[: counts.from_scene]
    return choices


def _list_words(relation: Relation, side: int, taken: Collection[str]) -> list[str]:
    return [pair[side] for pair in relation.pairs if pair[side] not in taken]


def _may_lend(
    other: Relation,
    side: int,
    kind: str,
    clue: str,
) -> bool:
    """Whether another relation's words are sure to be wrong: of another kind, and never beside ``clue``."""
    return other.kinds[side] != kind and clue not in itertools.chain(*other.pairs)


def _write_question(
    rng: random.Random,
    example: Pair,
    clue: str,
    side: int,
    choices: list[str],
) -> str:
    text = rng.choice(TEXTS)
    blank = "___" if "fits" in text else "what"

    first = [example[0], example[1]]
    second = [blank, clue] if side == 0 else [clue, blank]
    if rng.random() < 0.5:
        first.reverse()
        second.reverse()

    first[0] = capitalize_first(first[0])
    return text.format(*first, *second, ", ".join(choices))


def _write_example(relation: Relation, pair: Pair) -> str:
    return f"{pair[0]} is {relation.phrase} {pair[1]}"


def _write_answer(relation: Relation, pair: Pair, side: int) -> str:
    if side == 0:
        return f"{relation.phrase} {pair[1]}: {pair[0]}"
    return f"{pair[0]} is {relation.phrase} {pair[1]}"


# The procedure: the relation of the first pair, then the same of the second.

_QUESTION = re.compile(r"(\w+) is to (\w+) as (\w+) is to (\w+)[?.] Choose from: (.*)\.")
_BLANKS = ("what", "___")


def list_next_lines(question: str, lines: Sequence[str]) -> list[str]:
    """The lines that may follow ``lines`` in a solution of the question; none after the last one."""
    found = _QUESTION.search(question)
    if found is None:
        return []
    a, b, c, d, listed = found.groups()
    # The first word of a sentence has a capital.
    first_pair = [a.lower(), b.lower()]

    # A pair may stand in several relations, so there may be several lines.
    next_lines = []
    for relation in read_relations():
        for example in relation.pairs:
            shown = [word.lower() for word in example[:2]]
            if first_pair not in (shown, shown[::-1]):
                continue

            first_line = _write_example(relation, example)
            is_reversed = first_pair[0] == shown[1]
            if not lines:
                next_lines.append(first_line)
            elif list(lines) == [first_line]:
                asked = (d, c) if is_reversed else (c, d)
                next_lines += _list_answers(relation, asked, listed.split(", "))
    return next_lines


def _list_answers(relation: Relation, asked: tuple[str, str], choices: Sequence[str]) -> list[str]:
    side = int(asked[1] in _BLANKS)
    clue = asked[1 - side]
    lines = []
    for pair in relation.pairs:
        if pair[1 - side] == clue and pair[side] in choices:
            lines.append(_write_answer(relation, pair, side))
    return lines
