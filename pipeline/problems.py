"""Which train and dev problems each stage takes."""

from collections.abc import Mapping

from data import build
from data.records import Problem
from data.splits import LEVELS
from pipeline.recipe import Recipe, SftSettings

ARITHMETIC, LOGIC = "arithmetic_v1", "logic_v1"


def train_problems(recipe: Recipe, arithmetic: int, logic: int, levels: list[int]) -> dict[str, list[Problem]]:
    """So many train problems of each benchmark, first those sft has not seen, which are made as far as they go; where
    levels are named, only those of them."""
    chosen = {}
    counts = {ARITHMETIC: (recipe.sft.arithmetic, arithmetic), LOGIC: (recipe.sft.logic, logic)}
    for name, (seen, count) in counts.items():
        train = build.train(name, seen + _drawn(count, levels))
        chosen[name] = [p for p in train[seen:] + train[:seen] if not levels or p.level in levels][:count]
    return chosen


def _drawn(count: int, levels: list[int]) -> int:
    """How many problems have ``count`` of these levels among them."""
    return count * len(LEVELS) // len(set(levels)) if levels else count


def trace_problems(recipe: Recipe) -> list[Problem]:
    """The train problems that a model is asked to write traces of."""
    asked = train_problems(recipe, recipe.traces.arithmetic, recipe.traces.logic, [])
    return [p for of_it in asked.values() for p in of_it]


def sft_problems(settings: SftSettings) -> list[Problem]:
    """The train problems that sft learns from."""
    counts = {ARITHMETIC: settings.arithmetic, LOGIC: settings.logic}
    return [p for name, count in counts.items() for p in build.train(name, count)[:count]]


def every_train_problem(recipe: Recipe) -> list[Problem]:
    """All train problems that a stage of the recipe, or `make traces`, may take, and the rest of the committed ones."""
    drawn = (recipe.rl, recipe.adaptive, recipe.adaptive_budget, recipe.traces)
    found = []
    for name, part in ((ARITHMETIC, "arithmetic"), (LOGIC, "logic")):
        most = max(_drawn(getattr(settings, part), getattr(settings, "levels", [])) for settings in drawn)
        found += build.train(name, getattr(recipe.sft, part) + most)
    return found


def dev_problems(count: int) -> dict[str, list[Problem]]:
    """The first dev problems of each benchmark."""
    return {name: build.load(name, "dev")[:count] for name in (ARITHMETIC, LOGIC)}


def by_level(problems: Mapping[str, list[Problem]]) -> dict[str, list[Problem]]:
    """Problems by benchmark and level ("arithmetic_v1 2"), levels in order."""
    groups: dict[str, list[Problem]] = {}
    for name, of_it in problems.items():
        for problem in sorted(of_it, key=lambda p: p.level):
            groups.setdefault(f"{name} {problem.level}", []).append(problem)
    return groups
