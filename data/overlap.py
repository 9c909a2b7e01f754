"""Train problems that give a benchmark away: exact and near duplicates.

Word n-grams are how GPT-3 looked for contamination (arXiv 2005.14165, appendix C); three words suit short problems.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from data.records import Problem
from data.splits import normalise

NUMBER = r"\d+(?:\.\d+)?"
WORDS = 3
# Shares of common n-grams (Jaccard) from which two questions count as one. Between our own train and test, sums with
# the same numbers share about 0.3 at most, questions without numbers 0.79 (boolean expressions of few words).
SAME_NUMBERS, NO_NUMBERS = 0.7, 0.85

EXACT, TEMPLATE, NEAR = "the same text", "the same numbers in the same template", "nearly the same text"


def overlaps(train: Sequence[Problem], benchmark: Iterable[Problem]) -> list[tuple[Problem, Problem, str]]:
    """(train problem, benchmark problem, why) for every benchmark problem that train gives away, the surest reason
    and one train problem for each. A template is a question without its numbers and its capitalised words."""
    texts = {normalise(p.question): p for p in train}
    templates = {(_template(p.question), _numbers(p.question)): p for p in train}
    grams = [_grams(p.question) for p in train]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, own in enumerate(grams):
        for gram in own:
            holders[gram].append(i)

    def near(question: str) -> Problem | None:
        own, numbers = _grams(question), _numbers(question)
        least = SAME_NUMBERS if len(numbers) > 1 else NO_NUMBERS
        # Who shares that much shares one of the rarest n-grams: fewer than (1 - least) of all may be missing.
        rarest = sorted(own, key=lambda gram: len(holders.get(gram, ())))[: int((1 - least) * len(own)) + 1]
        for i in sorted({i for gram in rarest for i in holders.get(gram, ())}):
            alike = len(own & grams[i]) / len(own | grams[i])
            if alike >= least and sorted(_numbers(train[i].question)) == sorted(numbers):
                return train[i]
        return None

    found = []
    for problem in benchmark:
        numbers = _numbers(problem.question)
        if same := texts.get(normalise(problem.question)):
            found.append((same, problem, EXACT))
        elif len(numbers) > 1 and (same := templates.get((_template(problem.question), numbers))):
            found.append((same, problem, TEMPLATE))
        elif same := near(problem.question):
            found.append((same, problem, NEAR))
    return found


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(re.findall(NUMBER, text))


def _template(text: str) -> str:
    return normalise(re.sub(NUMBER, "0", re.sub(r"\b[A-Z]\w*", "name", text)))


def _grams(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}
