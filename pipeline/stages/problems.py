"""Which problems each stage takes, by the ``problems:`` of its recipe section."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data.dataset_spec import DatasetSpec
from data.datasets import hash_problems, load_dev, load_spec, load_train
from data.files import UserError
from data.problem import Problem, read_problems
from data.solutions import STYLES
from data.splits import take_stratified
from pipeline.prompts import format_question

if TYPE_CHECKING:
    from pipeline.settings import Recipe

# The section whose problems the others draw last.
FIRST_SECTION = "sft"


def select_stage_problems(recipe: Recipe, section: str, settings: Any) -> list[Problem]:
    """Return the training problems of a recipe section; all but sft's own are first those that sft has not seen."""
    if section == FIRST_SECTION:
        return select_problems(settings.problems)

    first = recipe.stages[FIRST_SECTION]
    return select_problems(settings.problems, first.problems, read_solved(first.solutions))


def select_problems(
    specs: Sequence[DatasetSpec],
    seen_specs: Sequence[DatasetSpec] = (),
    solved: Sequence[Problem] = (),
) -> list[Problem]:
    """Return ``take`` training problems of each data set, those of ``seen_specs`` and ``solved`` after all others.

    Raises:
        UserError: A data set has fewer, or two of ``specs`` take the same problem.
    """
    selected: list[Problem] = []
    for spec in specs:
        seen = [*_find_seen(spec, seen_specs), *solved]
        # A file of solutions may have ids of its own.
        seen_questions = {problem.question for problem in seen}
        drawn = load_train(spec, _count_drawn(spec, seen))

        # Others may have taken more of one level than of another, so what they left is evened out.
        unseen = [problem for problem in drawn if problem.question not in seen_questions]
        chosen = take_stratified(unseen, spec.take)
        again = [problem for problem in drawn if problem.question in seen_questions]
        taken = [*chosen, *again][: spec.take]
        if spec.take and len(taken) < spec.take:
            raise UserError(f"data set {spec.set}: has only {len(taken)} problems to take, not {spec.take}; lower take")
        selected += taken

    check_ids(selected)
    # Each would be asked, and count, twice.
    for problem_id, count in Counter(problem.id for problem in selected).most_common(1):
        if count > 1:
            raise UserError(
                f"problems: {count} entries take the same problem {problem_id!r}; give them other levels or families, "
                "or make them one"
            )
    return selected


def read_solved(solutions: Iterable[str]) -> list[Problem]:
    """Return the problems of the files that ``sft.solutions`` names; a file that is not there is refused elsewhere."""
    from pipeline.traces.sources import parse_source

    solved = []
    for text in solutions:
        name = parse_source(text).name
        if name not in STYLES and os.path.isfile(name):
            solved += read_problems(name)
    return solved


def check_ids(problems: Iterable[Problem]) -> None:
    """Raise UserError where one id stands for two problems, since answers are told apart by their ids."""
    questions: dict[str, str] = {}
    for problem in problems:
        question = format_question(problem)
        if questions.setdefault(problem.id, question) != question:
            raise UserError(
                f"problems: the id {problem.id!r} stands for two problems of a stage's data sets; give each its own id"
            )


def _count_drawn(spec: DatasetSpec, seen: Sequence[Problem]) -> int | None:
    """Return how many problems to draw, so that of each family and level enough are left that were not seen."""
    if spec.take is None:
        return None

    groups = {(problem.family, problem.level) for problem in load_train(spec, spec.take)}
    taken = Counter((problem.family, problem.level) for problem in seen)
    # What is drawn has the same share of each, so each needs as many more as the one that was taken most.
    most = max(taken[group] for group in groups)
    return spec.take + max(len(groups) * most, len(seen))


def select_dev_problems(specs: Iterable[DatasetSpec], count: int | None = None) -> list[Problem]:
    """Return the first dev problems of each data set, or all."""
    selected = []
    for spec in list_sets(specs):
        selected += load_dev(spec, count)

    check_ids(selected)
    return selected


def all_training_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem that a stage, or `make traces`, may train on; the contamination gate looks at these."""
    sections: dict[str, Any] = {**recipe.stages, "traces": recipe.traces}

    problems = {}
    for name, settings in sections.items():
        # The stages that do not train take none.
        if not hasattr(settings, "problems"):
            continue

        for problem in select_stage_problems(recipe, name, settings):
            # Two files may have the same ids.
            problems[problem.id, problem.question] = problem
    return list(problems.values())


def hash_sources(specs: Iterable[DatasetSpec]) -> dict[str, list[str]]:
    """Return the sha256 of the train and the dev problems of each data set, by its name.

    Of our own sets only the committed problems count: those beyond are made from a seed, which takes a minute.
    """
    hashes: dict[str, list[str]] = {}
    for spec in list_sets(specs):
        train = load_spec(spec).sha256
        dev = hash_problems(load_dev(spec))
        # A set may be named several times, such as with another configuration.
        hashes.setdefault(spec.set, []).extend([train, dev])
    return hashes


def _find_seen(spec: DatasetSpec, seen_specs: Iterable[DatasetSpec]) -> list[Problem]:
    """The problems that other specs take of the same data set."""
    same_set = _identify(spec)
    seen: list[Problem] = []
    for other in seen_specs:
        if _identify(other) == same_set:
            seen += load_train(other, other.take)
    return seen


def list_sets(specs: Iterable[DatasetSpec]) -> list[DatasetSpec]:
    """The data sets that specs take from, each once, in their order."""
    return list(dict.fromkeys(map(_identify, specs)))


def _identify(spec: DatasetSpec) -> DatasetSpec:
    """The data set that a spec takes from."""
    return dataclasses.replace(
        spec,
        take=None,
        families=None,
        levels=None,
        split=spec.split or "train",
    )
