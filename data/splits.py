"""Splits that are disjoint by construction, and orders of which any prefix is balanced.

A problem's split follows from its content key, never from a seed: two seeds, two wordings or two names
for the same sum all fall on the same side.
"""

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from data import arithmetic, logic
from data.records import Problem, split_of

BENCHMARKS = {"arithmetic_v1": arithmetic, "logic_v1": logic}
SPLITS = ("train", "dev", "test")
LEVELS = (1, 2, 3, 4, 5)
MOST_DRAWS = 20_000  # in a row without a new problem
DRAWS_FOR_A_NEW_KEY = 200  # a level with few distinct sums then repeats one in other words


def normalise(text: str) -> str:
    """Text as it is compared: lower-case, single spaces, no punctuation except what is arithmetic."""
    text = re.sub(r"\.(?!\d)|[^\w\s.+\-*/()<>=%]", "", text.lower())
    return " ".join(re.sub(r"([+\-*/()<>=%])", r" \1 ", text).split())


def interleave(problems: Iterable[Problem]) -> list[Problem]:
    """Level after level, and family after family within a level, as evenly as the counts allow."""
    groups: dict[int, dict[str, list[Problem]]] = defaultdict(lambda: defaultdict(list))
    for problem in problems:
        groups[problem.level][problem.family].append(problem)
    levels = []
    for index, level in enumerate(sorted(groups)):
        families = sorted(groups[level])
        first = index % len(families)  # or the first few problems would all be of one family
        levels.append(_in_turn([groups[level][name] for name in families[first:] + families[:first]]))
    return _in_turn(levels)


def _in_turn(lists: Sequence[Sequence[Problem]]) -> list[Problem]:
    return [p for round_ in itertools.zip_longest(*lists) for p in round_ if p is not None]


def take(problems: Sequence[Problem], limit: int) -> list[Problem]:
    """``limit`` of the problems, the same share of each level and family, in the order they came in."""
    chosen = {problem.id for problem in interleave(problems)[:limit]}
    return [problem for problem in problems if problem.id in chosen]


def build(
    benchmark: str, split: str, per_level: int, seed: int, draws_for_a_new_key: int = DRAWS_FOR_A_NEW_KEY
) -> list[Problem]:
    """A split of a benchmark; the same arguments always give the same problems."""
    rng = random.Random(f"{benchmark}/{split}/{seed}")
    source = BENCHMARKS[benchmark]
    texts: set[str] = set()
    keys: set[str] = set()
    places: Counter[tuple[int, str, str, int]] = Counter()
    problems = []
    for level in LEVELS:
        families = source.families(level)
        for family in (families[i % len(families)] for i in range(per_level)):
            for draw in range(MOST_DRAWS):
                problem = source.make(rng, level, family)
                key, text = problem.extra["key"], normalise(problem.question)
                if split_of(key) != split or text in texts or (key in keys and draw < draws_for_a_new_key):
                    continue
                choices = problem.choices or (problem.answer,)
                counts = [places[level, family, problem.kind, place] for place in range(len(choices))]
                place = choices.index(problem.answer)
                if counts[place] == min(counts):  # every label and place as often, or a guess would score
                    break
            else:
                raise RuntimeError(
                    f"{benchmark} {split}: no new {family} problem of level {level} in {MOST_DRAWS} draws; "
                    f"ask for fewer than {per_level} a level"
                )
            texts.add(text)
            keys.add(key)
            places[level, family, problem.kind, place] += 1
            problems.append(problem)
    ordered = interleave(problems)
    return [replace(problem, id=f"{benchmark}-{split}-{n:04d}") for n, problem in enumerate(ordered, 1)]


def check_disjoint(a: Iterable[Problem], b: Iterable[Problem]) -> list[tuple[Problem, Problem]]:
    """The pairs, one of each side, that share their normalised text or their content key."""
    by_mark: dict[str, Problem] = {}
    for problem in a:
        by_mark |= dict.fromkeys(_marks(problem), problem)
    return [(by_mark[mark], problem) for problem in b for mark in _marks(problem) if mark in by_mark]


def _marks(problem: Problem) -> list[str]:
    key = problem.extra.get("key")
    return [f"text {normalise(problem.question)}", *([f"key {key}"] if key else [])]
