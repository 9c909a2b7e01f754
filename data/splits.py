"""Splits by content, and orders of which any prefix is balanced.

A problem's split follows from its content key, never from a seed: two seeds, two wordings or two names for the same
sum all fall on the same side.
"""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from data.problem import Problem

SPLITS = ("train", "dev", "test")
LEVELS = (1, 2, 3, 4, 5)


def split_of(key: str) -> str:
    """The split a content key belongs to, for good: 60 % train, 15 % dev, 25 % test."""
    # Python's own hash changes from process to process.
    percentile = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100

    if percentile < 60:
        return "train"
    return "dev" if percentile < 75 else "test"


def normalize_text(text: str) -> str:
    """Text as it is compared: lower-case, single spaces, no punctuation except what is arithmetic."""
    text = re.sub(r"\.(?!\d)|[^\w\s.+\-*/()<>=%]", "", text.lower())
    spaced = re.sub(r"([+\-*/()<>=%])", r" \1 ", text)
    return " ".join(spaced.split())


def interleave(problems: Iterable[Problem]) -> list[Problem]:
    """Level after level, and family after family within a level, as evenly as the counts allow."""
    groups: dict[int, dict[str, list[Problem]]] = defaultdict(lambda: defaultdict(list))
    for problem in problems:
        groups[problem.level][problem.family].append(problem)

    levels = []
    for index, level in enumerate(sorted(groups)):
        families = sorted(groups[level])
        # Each level begins with another family, or the first few problems would all be of one.
        first = index % len(families)
        names = families[first:] + families[:first]
        levels.append(_merge_in_turn([groups[level][name] for name in names]))
    return _merge_in_turn(levels)


def _merge_in_turn(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    problems_in_turn = []
    for turn in itertools.zip_longest(*lists):
        problems_in_turn += [problem for problem in turn if problem is not None]
    return problems_in_turn


def take_stratified(problems: Sequence[Problem], n: int) -> list[Problem]:
    """``n`` of the problems, the same share of each level and family, in the order they came in."""
    chosen = {problem.id for problem in interleave(problems)[:n]}
    return [problem for problem in problems if problem.id in chosen]
