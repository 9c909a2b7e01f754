"""Train problems that contaminate a benchmark: exact and near duplicates.

Source: Brown et al. 2020, arXiv 2005.14165, appendix C (word n-grams); three words suit short problems.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.problem import Problem
from data.splits import normalize_text

Gram = tuple[str, ...]
Numbers = tuple[str, ...]

NUMBER = re.compile(r"\d+(?:\.\d+)?")
# 1,000 is 1000.
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
WORD = re.compile(r"\b[^\W\d_]\w*")
GRAM_WORDS = 3

# Shares of common n-grams (Jaccard) from which two questions count as one. Between our own train and test, sums with
# the same numbers share about 0.3 at most, questions without numbers 0.79 (boolean expressions of few words).
SAME_NUMBERS = 0.7
NO_NUMBERS = 0.85

EXACT = "the same text"
TEMPLATE = "the same numbers in the same template"
NEAR = "nearly the same text"


@dataclass(frozen=True)
class Overlap:
    """A benchmark's problem, a train problem that contaminates it, and how it does."""

    train_problem: Problem
    problem: Problem
    reason: str


def find_overlaps(train: Sequence[Problem], benchmark: Iterable[Problem]) -> list[Overlap]:
    """The problems of a benchmark that train contaminates, each with the surest reason and one train problem."""
    index = _Index(train)
    overlaps = map(index.find_overlap, benchmark)
    return [overlap for overlap in overlaps if overlap]


class _Index:
    """Train problems by text, by template and by n-gram."""

    def __init__(self, train: Sequence[Problem]):
        self.train = train
        self.by_text: dict[str, Problem] = {}
        self.by_template: dict[tuple[str, Numbers], Problem] = {}
        self.grams: list[set[Gram]] = []
        # Which train problems have the same numbers and an n-gram, so that few of them need to be compared.
        self.holders: dict[tuple[Numbers, Gram], list[int]] = defaultdict(list)

        for place, problem in enumerate(train):
            question = problem.question
            self.by_text[normalize_text(question)] = problem
            self.by_template[_make_template(question)] = problem

            grams = _list_grams(question)
            self.grams.append(grams)
            numbers = _sort_numbers(question)
            for gram in grams:
                self.holders[numbers, gram].append(place)

    def find_overlap(self, problem: Problem) -> Overlap | None:
        question = problem.question
        same = self.by_text.get(normalize_text(question))
        if same:
            return Overlap(same, problem, EXACT)

        # With a single number, a template alone says too little.
        template = _make_template(question)
        same = self.by_template.get(template)
        if same and len(_list_numbers(question)) > 1:
            return Overlap(same, problem, TEMPLATE)

        same = self._find_near(question)
        return Overlap(same, problem, NEAR) if same else None

    def _find_near(self, question: str) -> Problem | None:
        grams = _list_grams(question)
        numbers = _sort_numbers(question)
        threshold = SAME_NUMBERS if len(numbers) > 1 else NO_NUMBERS

        # Whoever shares that much shares one of the rarest n-grams: fewer than (1 - threshold) of all may be missing.
        holders = [self.holders.get((numbers, gram), []) for gram in grams]
        rarest_first = sorted(holders, key=len)
        missing = int((1 - threshold) * len(grams))
        count = missing + 1
        candidates = set(itertools.chain(*rarest_first[:count]))

        for place in sorted(candidates):
            other = self.grams[place]
            common = len(grams & other)
            similarity = common / len(grams | other)
            if similarity >= threshold:
                return self.train[place]
        return None


def _list_numbers(text: str) -> Numbers:
    return tuple(NUMBER.findall(THOUSANDS.sub("", text)))


def _sort_numbers(text: str) -> Numbers:
    return tuple(sorted(_list_numbers(text)))


def _make_template(text: str) -> tuple[str, Numbers]:
    """A question without its numbers and its capitalized words; and its numbers."""
    nameless = WORD.sub(lambda word: "name" if word[0][0].isupper() else word[0], text)
    bare = NUMBER.sub("0", THOUSANDS.sub("", nameless))
    return normalize_text(bare), _list_numbers(text)


def _list_grams(text: str) -> set[Gram]:
    words = normalize_text(text).split()
    # A shorter text is one n-gram.
    count = max(1, len(words) - GRAM_WORDS + 1)

    grams = set()
    for start in range(count):
        gram = words[start : start + GRAM_WORDS]
        grams.add(tuple(gram))
    return grams
