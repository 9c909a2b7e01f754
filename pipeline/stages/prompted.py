"""Stages 1 and 2: the base itself, asked for a direct answer or for steps, with and without worked examples.

Source: Kojima et al. 2022, arXiv 2205.11916 ("think step by step"); Wei et al. 2022, arXiv 2201.11903 (worked steps).
"""

import itertools

from data.dataset_spec import DatasetSpec
from data.datasets import Dataset, has_train_split, load_train
from data.files import UserError
from data.problem import Problem
from pipeline.settings import PromptedSettings
from pipeline.stages.stage import Stage

PLAIN = Stage(
    name="plain",
    number=1,
    help="the base, asked for a direct answer",
    prompt="plain",
    compared_to=(),
    settings=PromptedSettings,
)

COT = Stage(
    name="cot",
    number=2,
    help="the base, asked to think step by step",
    prompt="cot",
    compared_to=("plain",),
    settings=PromptedSettings,
)


def load_examples(benchmark: Dataset, settings: PromptedSettings, stage: str) -> list[Problem]:
    """Return as many worked problems as any variant shows before a benchmark's questions.

    They come from ``examples`` where the recipe names data sets, else from the benchmark's own train split, or where
    that has too few, from arithmetic_v1 if most answers are numbers, and from logic_v1 if they are not.

    Args:
        benchmark: What is asked.
        settings: Of the stage.
        stage: Its name; ``plain`` shows answers alone.

    Raises:
        UserError: the data sets that the recipe names have too few problems, or lack the steps that are to be shown.
    """
    count = max(settings.shots)
    if count == 0:
        return []

    if settings.examples is not None:
        sets = [load_train(spec, spec.take or count) for spec in settings.examples]
        # In turn, so that each set has its share.
        turns = itertools.zip_longest(*sets)
        chosen = [problem for problem in itertools.chain(*turns) if problem][:count]
        for problem in chosen:
            if stage != PLAIN.name and not problem.rationale:
                raise UserError(f"{stage}.examples: {problem.id} has no worked solution (rationale); name another set")
        if len(chosen) < count:
            raise UserError(
                f"{stage}.examples: they have {len(chosen)} problems for the {count} of {stage}.shots; name more, or "
                "lower it"
            )
        return chosen

    # A set without worked answers has nothing to show for the step-by-step prompt.
    if has_train_split(benchmark.spec):
        problems = load_train(benchmark.spec, count)
        if len(problems) == count and all(problem.rationale for problem in problems):
            return problems

    # The examples show the form of an answer more than how to come to it.
    numbers = sum(problem.kind == "number" for problem in benchmark.problems)
    is_numeric = numbers * 2 > len(benchmark.problems)
    return load_train(DatasetSpec(set="arithmetic_v1" if is_numeric else "logic_v1"), count)
