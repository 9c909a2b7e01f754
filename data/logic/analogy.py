"""Analogies: two pairs of one relation, with one side of the second to be chosen."""

import itertools
import random
import re
from collections.abc import Sequence

from data.logic.problems import make_problem
from data.logic.relations import Pair, Relation, read_relations
from data.problem import Problem
from data.splits import split_of
from data.words import capitalize_first

# How many wrong choices come from other relations, how many from the same one, and whether one is of the scene.
WRONG_CHOICES = {1: (3, 0, False), 2: (2, 1, False), 3: (1, 2, False), 4: (0, 2, True), 5: (0, 3, True)}
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
    from_others, from_same, from_scene = WRONG_CHOICES[level]
    # No word of the question is a choice.
    words = {*example, *target}

    elsewhere = []
    for other in read_relations():
        for other_side in (0, 1):
            if _may_lend(other, other_side, relation.kinds[side], target[1 - side]):
                elsewhere += [pair[other_side] for pair in other.pairs if pair[other_side] not in words]
    same = [pair[side] for pair in relation.pairs if pair[side] not in words]

    choices = [target[side]]
    choices += rng.sample(elsewhere, from_others)
    choices += rng.sample(same, from_same)
    if from_scene:
        choices.append(target[2])
    return choices


def _may_lend(other: Relation, side: int, kind: str, clue: str) -> bool:
    """Whether another relation's words are sure to be wrong: of another kind, and never beside ``clue``."""
    return other.kinds[side] != kind and clue not in itertools.chain(*other.pairs)


def _write_question(rng: random.Random, example: Pair, clue: str, side: int, choices: list[str]) -> str:
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

    next_lines = []
    for relation in read_relations():
        for example in relation.pairs:
            # The first word of a sentence has a capital.
            shown = [word.lower() for word in example[:2]]
            if [a.lower(), b.lower()] not in (shown, shown[::-1]):
                continue

            first_line = _write_example(relation, example)
            is_reversed = a.lower() == shown[1]
            if not lines:
                next_lines.append(first_line)
            elif list(lines) == [first_line]:
                asked = (d, c) if is_reversed else (c, d)
                next_lines += _list_answers(relation, asked, listed.split(", "))
    return next_lines


def _list_answers(relation: Relation, asked: tuple[str, str], choices: Sequence[str]) -> list[str]:
    side = int(asked[1] in _BLANKS)
    lines = []
    for pair in relation.pairs:
        if pair[1 - side] == asked[1 - side] and pair[side] in choices:
            lines.append(_write_answer(relation, pair, side))
    return lines
