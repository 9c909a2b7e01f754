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

# As `3 × 4` is the same sum as `3 * 4`, and another one than `3 ÷ 4`.
ASCII_SIGNS = str.maketrans("−×·÷", "-**/")


def split_of(key: str) -> str:
    """The split a content key belongs to, for good: 60 % train, 15 % dev, 25 % test."""
    # Python's own hash changes from process to process.
    digest = hashlib.sha256(key.encode()).hexdigest()
    percentile = int(digest, 16) % 100

    if percentile < 60:
        return "train"
    return "dev" if percentile < 75 else "test"


def normalize_text(text: str) -> str:
    """Text as it is compared: lower-case, single spaces, no punctuation except what is arithmetic."""
    lower = text.lower().translate(ASCII_SIGNS)
    # A comma parts a list, "1,2,3", unless it parts thousands.
    listed = re.sub(r",(?!(?<=\d,)\d{3}(?!\d))", " ", lower)
    # A point before a digit is a decimal point, and a mark after one a factorial.
    kept = re.sub(r"\.(?!\d)|(?<![\d)])!|[^\w\s.+\-*/()<>=%^√|!]", "", listed)
    # "2+3" and "2 + 3" are the same text.
    spaced = re.sub(r"([+\-*/()<>=%^√|])", r" \1 ", kept)
    return " ".join(spaced.split())


def interleave(problems: Iterable[Problem]) -> list[Problem]:
    """Level after level, and family after family within a level, as evenly as the counts allow."""
    levels = []
    for index, level in enumerate(_group_by("level", problems)):
        families = _group_by("family", level)
        # Each level begins with another family, or the first few problems would all be of one.
        first = index % len(families)
        rotated = families[first:] + families[:first]
        levels.append(_merge_in_turn(rotated))
    return _merge_in_turn(levels)


def _group_by(field: str, problems: Iterable[Problem]) -> list[list[Problem]]:
    """The problems with each value of a field, in the order of the values."""
    groups = defaultdict(list)
    for problem in problems:
        value = getattr(problem, field)
        groups[value].append(problem)
    return [groups[value] for value in sorted(groups)]


def _merge_in_turn(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    problems_in_turn = []
    for turn in itertools.zip_longest(*lists):
        for problem in turn:
            # A short list is out of problems in the later turns.
            if problem is not None:
                problems_in_turn.append(problem)
    return problems_in_turn


def take_stratified(problems: Sequence[Problem], n: int | None) -> list[Problem]:
    """``n`` of the problems, or all; the same share of each level and family, in the order they came in."""
    first = interleave(problems)[:n]
    chosen = {problem.id for problem in first}
    return [problem for problem in problems if problem.id in chosen]
