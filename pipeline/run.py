"""A run: one base under one recipe. Opening it makes every check that can be made before anything is written."""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.contamination import Overlap, find_overlaps
from data.dataset_spec import DatasetSpec
from data.datasets import Dataset, load_dev, load_train
from data.files import UserError
from data.problem import Problem, read_problems
from data.splits import take_stratified
from eval.grade import check_gold, load_benchmark
from eval.table import POOLED
from pipeline.config import check_trainers, count_context_tokens, default_profile, load_recipe
from pipeline.models.check import check_lora
from pipeline.models.load import base_folder_name, check_base, check_name, fingerprint, resolve
from pipeline.models.nano import PRETRAINING_FILE
from pipeline.run_dir import RunDir, find_run_dir
from pipeline.settings import PromptedSettings, Recipe, RlSettings
from pipeline.stages.problems import all_training_problems, list_sets, select_dev_problems, select_stage_problems
from pipeline.stages.prompted import load_examples
from pipeline.stages.rl import check_guessable


@dataclass(frozen=True)
class Run:
    """One base under one recipe.

    Args:
        base: its name, as the user wrote it.
        base_folder: where its weights are.
        fingerprint: the sha256 of its weights and tokenizer.
        dir: runs/BASE, or runs/BASE/seed-N.
        benchmarks: what every stage is scored on.
        overlaps: for each benchmark its problems that training contaminates; none where the gate was not asked.
        pretraining_overlaps: the same of the base's own pretraining.
    """

    base: str
    base_folder: Path
    fingerprint: str
    dir: RunDir
    profile: str
    recipe: Recipe
    benchmarks: list[Dataset]
    overlaps: dict[str, list[Overlap]]
    pretraining_overlaps: dict[str, list[Overlap]]


def open_run(options: argparse.Namespace, for_training: bool = True) -> Run:
    """Return the run that the command line names.

    Args:
        options: base, profile, runs, limit, seed, overrides, benchmark and allow_overlap of the command line.
        for_training: whether stages are to be run, so that all must be checked that would stop them later.

    Raises:
        UserError: The recipe, a data set, a benchmark or the base will not do; nothing is written by then.
    """
    # What takes seconds comes before what may take minutes.
    check_name(options.base)
    recipe = read_recipe(options)
    benchmarks = load_benchmarks(options.benchmark or recipe.eval.benchmarks, recipe.eval.limit)

    overlaps: dict[str, list[Overlap]] = {}
    pretraining_overlaps: dict[str, list[Overlap]] = {}
    if for_training:
        check_trainers(recipe)
        check_tracker(recipe.report_to)
        check_vllm(recipe.stages["rl"])
        check_rewards(recipe)
        check_guessable(recipe, recipe.stages["rl"])
        check_golds(recipe)
        check_examples(recipe, benchmarks)
        overlaps = find_contamination(recipe, benchmarks, options.allow_overlap)

    folder = resolve(options.base)
    if for_training:
        check_base(options.base, folder, count_context_tokens(recipe))
        check_lora(folder, recipe.stages["sft"].lora)
        pretraining_overlaps = find_pretraining_overlaps(folder, benchmarks, options.allow_overlap)

    base_fingerprint = fingerprint(folder)
    run_dir = find_run_dir(options.runs, base_folder_name(options.base), recipe.seed)
    check_run_dir(run_dir, recipe, options.base, base_fingerprint)

    return Run(
        base=options.base,
        base_folder=folder,
        fingerprint=base_fingerprint,
        dir=run_dir,
        profile=options.profile or default_profile(),
        recipe=recipe,
        benchmarks=benchmarks,
        overlaps=overlaps,
        pretraining_overlaps=pretraining_overlaps,
    )


def read_recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe that the command line names; --limit and --seed win over --set."""
    overrides = list(options.overrides)
    if options.limit is not None:
        overrides.append(f"eval.limit={options.limit}")
    if options.seed is not None:
        overrides.append(f"seed={options.seed}")

    return load_recipe(options.profile or default_profile(), overrides, options.base)


def open_results(options: argparse.Namespace) -> RunDir:
    """Return the folder of the run that the command line names, without a look at base and benchmarks."""
    return find_run_dir(options.runs, base_folder_name(options.base), read_recipe(options).seed)


def check_run_dir(run_dir: RunDir, recipe: Recipe, base: str, base_fingerprint: str) -> None:
    """Raise UserError where a folder has the results of another base, whose file has the same name."""
    for name, part_name in itertools.product(recipe.stages, ("training", "scoring")):
        part = run_dir.stage(name).read_part(part_name)
        if not part or part["inputs"]["base"] == base_fingerprint:
            continue
        # The same folder may be spelled in two ways, and its weights be newer.
        if os.path.normpath(part["base"]) != os.path.normpath(base):
            raise UserError(
                f"{run_dir.root}: it has the results of another base, {part['base']}; give {base} a folder of its own "
                "(--runs FOLDER, or RUNS=FOLDER)"
            )


def load_benchmarks(texts: Sequence[str], limit: int) -> list[Dataset]:
    """Return the benchmarks to be scored, ``limit`` problems of each, stratified."""
    benchmarks = []
    for text in texts:
        dataset = load_benchmark(text)
        benchmarks.append(replace(dataset, problems=take_stratified(dataset.problems, limit)))

    # The files of a run have the names of its benchmarks.
    names = [dataset.name for dataset in benchmarks]
    if POOLED in names:
        raise UserError(f"--benchmark: {POOLED!r} is the table's name for all of them together; rename the file")
    if len(set(names)) < len(names):
        raise UserError(f"--benchmark: two have the same name ({', '.join(names)}); rename a file")
    return benchmarks


def check_tracker(report_to: str) -> None:
    """Raise UserError where the tracker is not installed."""
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise UserError(f"report_to={report_to}: the package is not installed; run: pip install {report_to}")


def check_vllm(settings: RlSettings) -> None:
    """Raise UserError where stage 4, or a control of it, is to sample by vLLM and that is not installed."""
    is_asked_for = settings.algorithm != "expert_iteration" and settings.grpo.trainer.get("use_vllm")
    if is_asked_for and importlib.util.find_spec("vllm") is None:
        raise UserError("rl.grpo.trainer.use_vllm: vLLM is not installed; see docs/machines.md, or leave it out")


def check_rewards(recipe: Recipe) -> None:
    """Raise UserError where a stage names a reward that fails on its own problems."""
    from pipeline.rewards import try_reward

    for name, settings in recipe.stages.items():
        if hasattr(settings, "rewards"):
            # Two, since some rewards compare a completion with the others.
            problems = select_stage_problems(recipe, name, settings)[:2]
            for reward in settings.rewards:
                try_reward(reward, problems)


def check_golds(recipe: Recipe) -> None:
    """Raise UserError where a problem that a stage trains on has an answer that nothing could equal."""
    for name, settings in recipe.stages.items():
        if hasattr(settings, "problems"):
            sets = ", ".join(spec.set for spec in settings.problems)
            for problem in select_stage_problems(recipe, name, settings):
                check_gold(problem, f"{name}.problems ({sets})")


def check_examples(recipe: Recipe, benchmarks: Sequence[Dataset]) -> None:
    """Raise UserError where the examples that stages 1 and 2 are to show cannot be had."""
    for name, settings in recipe.stages.items():
        if isinstance(settings, PromptedSettings):
            for benchmark in benchmarks:
                load_examples(benchmark, settings, name)


def find_contamination(
    recipe: Recipe,
    benchmarks: Sequence[Dataset],
    allow_overlap: bool,
) -> dict[str, list[Overlap]]:
    """Return for each benchmark its problems that training contaminates.

    Raises:
        UserError: There are any and ``allow_overlap`` is False, or training contaminates the dev problems of another
            data set.
    """
    # Solutions may come from problems that no data set of the recipe has.
    train = all_training_problems(recipe)
    learnt = [*train, *list_solved_problems(recipe, train)]
    for overlap in find_overlaps(learnt, list_dev_problems(recipe)):
        # Near duplicates within a set may fall on both sides of its split.
        if not _is_of_one_set(recipe, overlap):
            raise UserError(
                f"training: {_describe_overlap(overlap)}, a dev problem, and adapters are chosen on dev; take it out "
                "of the file"
            )

    return check_overlaps(learnt, benchmarks, allow_overlap)


def find_pretraining_overlaps(
    folder: Path, benchmarks: Sequence[Dataset], allow_overlap: bool
) -> dict[str, list[Overlap]]:
    """Return for each benchmark its problems that a base's pretraining contaminates, where we know of what it read."""
    file = folder / PRETRAINING_FILE
    return check_overlaps(read_problems(file) if file.is_file() else [], benchmarks, allow_overlap)


def check_overlaps(
    train: Sequence[Problem], benchmarks: Sequence[Dataset], allow_overlap: bool
) -> dict[str, list[Overlap]]:
    """Return for each benchmark its problems that ``train`` contaminates; UserError where that is not allowed."""
    # All at once, since the training problems are read for it.
    all_overlaps = find_overlaps(train, [problem for benchmark in benchmarks for problem in benchmark.problems])

    found = {}
    for benchmark in benchmarks:
        problems = set(benchmark.problems)
        overlaps = [overlap for overlap in all_overlaps if overlap.problem in problems]
        if overlaps and not allow_overlap:
            # Three are enough to see what kind they are.
            examples = "; ".join(_describe_overlap(overlap) for overlap in overlaps[:3])
            raise UserError(
                f"{benchmark.name}: {len(overlaps)} of its problems are in the training data: {examples}; take them "
                f"out, score another share of the set (such as --benchmark '{benchmark.spec.set}?split=test'), or "
                "pass --allow-overlap (ALLOW_OVERLAP=1), which the table then says"
            )
        found[benchmark.name] = overlaps
    return found


def list_solved_problems(recipe: Recipe, train: Sequence[Problem]) -> list[Problem]:
    """Return the problems that stages take from files of solutions and that are not among ``train``."""
    from pipeline.traces.sources import choose_solutions

    solved = []
    for name, settings in recipe.stages.items():
        if hasattr(settings, "solutions"):
            problems = select_stage_problems(recipe, name, settings)
            solved += choose_solutions(problems, settings.solutions, recipe.seed)

    # Ids of a file may be others than ours.
    known = {problem.question for problem in train}
    return [problem for problem in solved if problem.question not in known]


def list_dev_problems(recipe: Recipe) -> list[Problem]:
    """Return the dev problems of all data sets that stages train on."""
    problems = []
    for settings in recipe.stages.values():
        problems += select_dev_problems(getattr(settings, "problems", ()))
    # Most sets are of several stages.
    return list(dict.fromkeys(problems))


def _is_of_one_set(recipe: Recipe, overlap: Overlap) -> bool:
    """Whether a train problem and the dev problem that it contaminates come from the same data set."""
    specs: list[DatasetSpec] = []
    for settings in recipe.stages.values():
        specs += getattr(settings, "problems", ())

    for spec in list_sets(specs):
        train = {problem.question for problem in load_train(spec)}
        if overlap.train_problem.question in train and overlap.problem in load_dev(spec):
            return True
    return False


def _describe_overlap(overlap: Overlap) -> str:
    return f"{overlap.train_problem.id} has {overlap.reason} as {overlap.problem.id}"
