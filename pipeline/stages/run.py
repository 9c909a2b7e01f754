"""Run a stage: bring its parent up to date, train its adapter, answer every benchmark, grade and score.

What is up to date is left alone: each part's manifest names what it was made from, and the part is made again where
that has changed or where a file is damaged. A part that was interrupted goes on.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.contamination import find_overlaps
from data.datasets import Dataset, hash_problems
from data.files import read_json, sha256_file, sha256_json, write_json, write_text
from data.problem import Problem, read_completions
from eval.extract import EXTRACTION_VERSION
from eval.score import SCORES_VERSION
from pipeline import stages
from pipeline.learnability import NoSignal
from pipeline.models.load import resolve_precision
from pipeline.processes import on_main_process
from pipeline.progress import console, log_to, say
from pipeline.prompts import prompt_sha256
from pipeline.stage_dir import StageDir, write_answers
from pipeline.stages.problems import hash_sources, select_stage_problems
from pipeline.stages.prompted import load_examples
from pipeline.stages.stage import Stage, TrainingContext, apply_overrides
from pipeline.traces.sources import choose_solutions

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation
    from pipeline.run import Run

Record = dict[str, Any]

UP_TO_DATE = "up to date"

# What scores are made from beside the answers.
GRADING = ("extraction_version", "scores_version")


@dataclass(frozen=True)
class TableRow:
    """What one row of the table stands for: a variant of the stage's prompt, put to one benchmark.

    ``file`` is where its completions and grades go, below completions/ and grades/.
    """

    variant: str
    shots: int
    benchmark: Dataset
    examples: Sequence[Problem]
    file: Path


def run_stage(run: Run, stage: Stage) -> None:
    """Bring a stage up to date, and first the stage that it starts from."""
    if stage.parent:
        run_stage(run, stages.get_stage(stage.parent))

    folder = run.dir.stage(stage.name)
    # Its parent has written a log of its own by now.
    with log_to(folder.folder):
        try:
            train_stage(run, stage)
        except NoSignal as error:
            # A row from an earlier recipe must not stay.
            on_main_process(folder.forget)
            if not stage.control_of:
                raise
            say(f"{error}. This control would be no different, so it gets no row")
            return

        score_stage(run, stage)


def get_settings(run: Run, stage: Stage) -> Any:
    """Return a stage's section of the recipe, with a control's overrides."""
    return apply_overrides(run.recipe.stages[stage.section], stage.overrides)


def train_stage(run: Run, stage: Stage) -> None:
    """Train a stage's adapter unless the one on disk was made from the same inputs."""
    if stage.train is None:
        return

    folder = run.dir.stage(stage.name)
    inputs = on_main_process(lambda: training_inputs(run, stage))
    if on_main_process(lambda: is_up_to_date(folder, "training", inputs)):
        return

    say(f"{stage.name}: training")
    start = time.monotonic()
    work = on_main_process(lambda: folder.begin("training", inputs))
    # The trackers' own folder; their default is the work folder, which does not stay.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.folder / "tensorboard")
    context = TrainingContext(run, stage, get_settings(run, stage), run.recipe.seed, work)
    adapter = stage.train(context)
    _finish_tracking(run.recipe.report_to)

    seconds = time.monotonic() - start
    about = {"base": run.base, "profile": run.profile, "seconds": round(seconds, 1)}
    on_main_process(lambda: folder.keep_training(adapter, inputs, about))
    say(f"{stage.name}: trained in {seconds:.0f} s")


def training_inputs(run: Run, stage: Stage) -> Record:
    """Return what a stage's adapter is made from."""
    settings = get_settings(run, stage)
    section = settings.model_dump(mode="json")
    parent = run.dir.stage(stage.parent) if stage.parent else None

    # What makes the adapter another one. How fast it comes, as by base.fast_training, is no part of it.
    inputs = {
        **_describe_base(run),
        "settings": section,
        "seed": run.recipe.seed,
        "parent": stage.parent,
        # By its content: a parent that comes out the same makes nothing stale.
        "parent_adapter": parent.adapter_sha256() if parent else None,
        "prompt": prompt_sha256(stage.prompt),
        "problems": hash_sources(getattr(settings, "problems", [])),
        "files": _hash_named_files(section),
    }
    if stage.control_of:
        real = training_inputs(run, stages.get_stage(stage.control_of))
        inputs["imitates"] = {"stage": stage.control_of, "inputs": sha256_json(real)}
    return inputs


def scoring_inputs(run: Run, stage: Stage) -> Record:
    """Return what a stage's completions and scores are made from."""
    folder = run.dir.stage(stage.name)
    prompts = {}
    for row in list_rows(run, stage):
        prompts[str(row.file)] = prompt_sha256(stage.prompt, row.examples)

    return {
        **_describe_base(run),
        "settings": get_settings(run, stage).model_dump(mode="json"),
        "seed": run.recipe.seed,
        "adapter": folder.adapter_sha256() if stage.train else None,
        "prompts": prompts,
        "batch_size": run.recipe.eval.batch_size,
        "benchmarks": {b.name: [b.sha256, hash_problems(b.problems)] for b in run.benchmarks},
        "extraction_version": EXTRACTION_VERSION,
        "scores_version": SCORES_VERSION,
    }


def stage_status(run: Run) -> dict[str, str]:
    """Return for each stage whether it is up to date, and if not, why."""
    # In the order of the ladder, so a parent's state is there.
    states: dict[str, str] = {}
    for stage in stages.STAGES:
        reasons = _find_reasons(run, stage)
        if stage.parent and states.get(stage.parent) != UP_TO_DATE:
            reasons.append(f"{stage.parent}, which it starts from, is not up to date")
        states[stage.name] = "; ".join(reasons) or UP_TO_DATE
    return states


def list_due_trainings(run: Run) -> set[str]:
    """Return the stages whose adapter is to be trained: anew, for the first time, or after that of its parent."""
    due: set[str] = set()
    for stage in stages.STAGES:
        if stage.train is None:
            continue

        folder = run.dir.stage(stage.name)
        is_stale = folder.find_changes("training", training_inputs(run, stage)) or folder.find_damaged("training")
        if is_stale or stage.parent in due:
            due.add(stage.name)
    return due


def list_rows(run: Run, stage: Stage) -> list[TableRow]:
    """Return the rows that a stage gets in the table."""
    settings = get_settings(run, stage)
    all_shots = [0]
    examples: dict[str, list[Problem]] = {}
    if stage.train is None:
        all_shots = settings.shots
        examples = {benchmark.name: load_examples(benchmark, settings, stage.name) for benchmark in run.benchmarks}

    rows = []
    for shots in all_shots:
        variant = f"{shots}-shot" if shots else "zero-shot"
        # A trained stage has one variant, and needs no folder for it.
        folder = Path(variant) if len(all_shots) > 1 else Path()
        for benchmark in run.benchmarks:
            shown = examples.get(benchmark.name, [])[:shots]
            file = folder / f"{benchmark.name}.jsonl"
            rows.append(TableRow(variant, shots, benchmark, shown, file))
    return rows


def score_stage(run: Run, stage: Stage) -> None:
    """Score a stage on every benchmark unless that was done with the same inputs."""
    # The adapter is trained by now; its hash is one of the inputs.
    inputs = on_main_process(lambda: scoring_inputs(run, stage))
    if on_main_process(lambda: _is_scored(run, stage, inputs)):
        return

    # With the model's loading; a row's own seconds are those of decoding alone.
    start = time.monotonic()
    evaluations = on_main_process(lambda: find_answers(run, stage, inputs)) or decode_answers(run, stage, inputs)
    seconds = time.monotonic() - start

    on_main_process(lambda: _write_scores(run, stage, inputs, evaluations, seconds))
    say(f"{stage.name}: scored in {seconds:.0f} s")


def find_answers(run: Run, stage: Stage, inputs: Record) -> list[Evaluation]:
    """Return the answers on disk where nothing but their grading has changed; none where they must be asked anew."""
    from pipeline.evaluate import Evaluation

    folder = run.dir.stage(stage.name)
    part = folder.read_part("scoring")
    # Grades are made again, and an interrupted grading may have begun to.
    grades = folder.folder / "grades"
    damaged = [path for path in folder.find_damaged("scoring") if grades not in path.parents]
    if not part or damaged:
        return []

    graded_by = {name: part["inputs"][name] for name in GRADING}
    if folder.find_changes("scoring", inputs | graded_by):
        return []

    say(f"{stage.name}: its answers are graded again")
    seconds = {}
    for variant in read_json(folder.folder / "scores.json")["variants"]:
        for entry in variant["benchmarks"]:
            seconds[entry["completions"]] = entry["seconds"]

    # The benchmarks may be named in another order now.
    evaluations = []
    for row in list_rows(run, stage):
        name = Path("completions") / row.file
        completions = read_completions(folder.folder / name)
        evaluations.append(Evaluation(completions, seconds[str(name)]))
    return evaluations


def decode_answers(run: Run, stage: Stage, inputs: Record) -> list[Evaluation]:
    """Ask a stage every benchmark under each of its variants."""
    from pipeline.evaluate import evaluate
    from pipeline.models.load import load_model

    folder = run.dir.stage(stage.name)
    partial = on_main_process(lambda: folder.begin("scoring", inputs))
    adapter = folder.adapter if stage.train else None
    model, tokenizer = load_model(run.base_folder, adapter, load=run.recipe.base.load)

    evaluations = []
    for row in list_rows(run, stage):
        evaluation = evaluate(
            model,
            tokenizer,
            row.benchmark.problems,
            stage.prompt,
            examples=row.examples,
            max_new_tokens=run.recipe.eval.generation["max_new_tokens"],
            batch_size=run.recipe.eval.batch_size,
            label=f"{stage.name} {row.variant} {row.benchmark.name}",
            # Finished answers, kept as they come.
            partial=partial / row.variant / row.benchmark.name,
        )
        evaluations.append(evaluation)
    return evaluations


def _is_scored(run: Run, stage: Stage, inputs: Record) -> bool:
    """Whether the scores on disk were made from these inputs and are what was written."""
    run.dir.write_problems(run.benchmarks)
    folder = run.dir.stage(stage.name)

    # The recipe follows from the inputs, so a damaged one is only written again.
    if not folder.find_changes("scoring", inputs):
        _write_recipe(run, stage)

    is_scored = is_up_to_date(folder, "scoring", inputs)
    if is_scored:
        # The log is not told, since nothing happened.
        console.print(f"{stage.name}: {UP_TO_DATE}")
    return is_scored


def is_up_to_date(folder: StageDir, part: str, inputs: Record) -> bool:
    """Return whether a part on disk was made from these inputs and is what was written; says what is damaged."""
    if folder.find_changes(part, inputs):
        return False

    for path in folder.find_damaged(part):
        say(f"{folder.name}: {path} is not what was written; {part} again")
        return False

    # They may be missing, but not say what is not true.
    if part == "training":
        for path in folder.find_damaged_notes():
            aside = find_free_name(path.with_name(f"{path.name}.changed"))
            say(f"{folder.name}: {path} is not what was written; it is {aside.name} now")
            path.rename(aside)

    folder.remove_leftovers(part, inputs)
    return True


def find_free_name(path: Path) -> Path:
    """Return a path that is free: this one, or with the first number behind it that makes it so."""
    free = path
    for number in itertools.count(2):
        if not free.exists():
            break
        free = path.with_name(f"{path.name}{number}")
    return free


def _find_reasons(run: Run, stage: Stage) -> list[str]:
    """Why a stage is not up to date, its parent aside."""
    folder = run.dir.stage(stage.name)
    inputs = {"training": training_inputs(run, stage)} if stage.train else {}
    inputs["scoring"] = scoring_inputs(run, stage)
    reasons = []
    damaged = []

    for part, made_from in inputs.items():
        changes = folder.find_changes(part, made_from)
        # Else the change says which part is missing.
        if folder.read_part(part):
            changes = [f"{part}: {change}" for change in changes]
            damaged += folder.find_damaged(part)
        reasons += changes

    damaged += folder.find_damaged_notes()
    return reasons + [f"{path} is not what was written" for path in damaged]


def _write_scores(
    run: Run,
    stage: Stage,
    inputs: Record,
    evaluations: Sequence[Evaluation],
    seconds: float,
) -> None:
    """Write completions, grades, the recipe and scores.json, and seal them."""
    folder = run.dir.stage(stage.name)
    scores_file = folder.folder / "scores.json"
    files = [scores_file, _write_recipe(run, stage)]

    # The rows of a variant follow each other, a benchmark each.
    variants: dict[str, Record] = {}
    for row, evaluation in zip(list_rows(run, stage), evaluations, strict=True):
        entry = _write_row(run, stage, row, evaluation)
        files += [folder.folder / entry["completions"], folder.folder / entry["grades"]]

        variant = {"variant": row.variant, "prompt": stage.prompt, "shots": row.shots, "benchmarks": []}
        variants.setdefault(row.variant, variant)["benchmarks"].append(entry)

    scores = {
        "stage": stage.name,
        "number": stage.number,
        "control": stage.control_of is not None,
        "compared_to": list(stage.compared_to),
        "parent": stage.parent,
        "alarm": folder.read_part("training").get("alarm"),
        "extraction_version": EXTRACTION_VERSION,
        "scores_version": SCORES_VERSION,
        "base": run.fingerprint,
        "load": inputs["load"],
        "max_new_tokens": run.recipe.eval.generation["max_new_tokens"],
        "variants": list(variants.values()),
    }
    write_json(scores_file, scores)
    _remove_other_answers(folder.folder, files)

    about = {
        "base": run.base,
        "profile": run.profile,
        "seconds": round(seconds, 1),
        "sources": {benchmark.name: benchmark.source for benchmark in run.benchmarks if benchmark.source},
    }
    folder.finish("scoring", inputs, files, about)


def _remove_other_answers(folder: Path, files: Sequence[Path]) -> None:
    """Remove what an earlier recipe with other variants or benchmarks has left."""
    for name in ("completions", "grades"):
        for path in (folder / name).rglob("*.jsonl"):
            if path not in files:
                path.unlink()


def _write_row(run: Run, stage: Stage, row: TableRow, evaluation: Evaluation) -> Record:
    """Write the completions and grades of one row; return its entry in scores.json."""
    benchmark = row.benchmark
    folder = run.dir.stage(stage.name).folder
    entry, _ = write_answers(folder, row.file, benchmark.problems, evaluation)
    return {
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "problems_sha256": sha256_file(run.dir.problems_file(benchmark.name)),
        "overlaps": _count_overlaps(run, stage, row),
        **entry,
    }


def _write_recipe(run: Run, stage: Stage) -> Path:
    """Write a stage's settings, as they were resolved."""
    path = run.dir.stage(stage.name).folder / "recipe.yaml"
    section = get_settings(run, stage).model_dump(mode="json")
    text = yaml.safe_dump({"seed": run.recipe.seed, stage.name: section}, sort_keys=False)

    # Where nothing has changed its date stays, too.
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
    return path


def _count_overlaps(run: Run, stage: Stage, row: TableRow) -> int:
    """How many problems of a benchmark were seen in a training, or in the base's own, or stand in the prompt."""
    name = row.benchmark.name
    problems = row.benchmark.problems
    overlaps = find_overlaps(row.examples, problems) + run.pretraining_overlaps[name]
    # Most runs have none, and need not look closer.
    if run.overlaps[name]:
        overlaps += find_overlaps(list_learnt_problems(run, stage), problems)

    # A problem may overlap with several.
    ids = {overlap.problem.id for overlap in overlaps}
    return len(ids)


def list_learnt_problems(run: Run, stage: Stage) -> list[Problem]:
    """Return the problems that a stage's adapter learnt from, those of the stages before it included."""
    learnt: list[Problem] = []
    if stage.parent:
        learnt += list_learnt_problems(run, stages.get_stage(stage.parent))

    settings = get_settings(run, stage)
    # The prompted stages learn from none.
    if hasattr(settings, "problems"):
        problems = select_stage_problems(run.recipe, stage.section, settings)
        if hasattr(settings, "solutions"):
            # A file of solutions may hold others.
            problems = choose_solutions(problems, settings.solutions, run.recipe.seed)
        learnt += problems
    return learnt


def _describe_base(run: Run) -> Record:
    """What every part depends on: the base, how it is loaded, and how it generates."""
    return {
        "base": run.fingerprint,
        "load": resolve_precision(run.recipe.base.load),
        "generation": run.recipe.eval.generation,
    }


def _hash_named_files(value: Any) -> dict[str, str]:
    """The sha256 of each file that settings name, such as FILE.jsonl:0.5 or FILE.py:function."""
    if isinstance(value, dict):
        value = list(value.values())

    hashes: dict[str, str] = {}
    if isinstance(value, list):
        for item in value:
            hashes |= _hash_named_files(item)

    elif isinstance(value, str):
        without_suffix = value.rpartition(":")[0]
        for name in (value, without_suffix):
            # Not Path.is_file, which raises where a text is too long for a name.
            if os.path.isfile(name):
                hashes[name] = sha256_file(name)
    return hashes


def _finish_tracking(report_to: str) -> None:
    """End the tracker's run, or the next stage would go on with it."""
    if report_to == "wandb":
        import wandb

        wandb.finish()
