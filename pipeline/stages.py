"""The five stages: what each stands on, trains and is asked with.

A stage first brings what it stands on up to date, then trains its adapter (sft, rl, adaptive), then answers every
benchmark with every variant of its prompt; completions, grades and scores go to disk. What is up to date is left alone.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from data.records import (
    BadInput,
    read_completions,
    sha256_of,
    write_json,
    write_records,
    write_text,
)
from data.sets import Benchmark
from eval import table
from eval.extract import EXTRACTION_VERSION
from eval.grade import grade_all
from eval.score import SCORES_VERSION, score
from pipeline import answers, base, processes, runs, traces
from pipeline.problems import by_level, dev_problems, sft_problems, train_problems
from pipeline.processes import by_main
from pipeline.progress import console, logged, say
from pipeline.prompts import DIRECT, THINK, exemplars, wording_hash
from pipeline.recipe import STAGES, RlSettings, SftSettings
from pipeline.reward import NoSignal
from pipeline.runs import Run
from pipeline.trace_sources import own_traces

# Stages that differ from a real one in one setting, by which what they teach is taken away: a gain that stays is fake.
CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft_answers": ("sft", {"steps": "none", "rounds": 1}),
    "sft_shuffled": ("sft", {"steps": "shuffled", "rounds": 1}),
    "rl_random": ("rl", {"reward": "random"}),
    "rl_format": ("rl", {"reward": "format"}),
}
BUDGETED = "adaptive_budget"  # the other stage 5, which is told how long to think; no rung of `make`
TRAINED = ("sft", "rl", "adaptive", BUDGETED, *CONTROLS)
ROUND = "sft_round"  # and its number: the stages that come before sft where sft.rounds is above 1
REFUSED = "refused.json"  # what the pre-flight saw of a training that it refused
READ_AGAIN = ("curve.json", "train.jsonl", "preflight.json", "alarm.txt")
LEFT_BEHIND = (*READ_AGAIN, "traces.jsonl", "traces.json", REFUSED)


def run_stage(run: Run, stage: str) -> None:
    """Bring one stage up to date, and whatever it stands on."""
    parent = parent_of(run, stage)
    if parent:
        run_stage(run, parent)
    by_main(lambda: base.check_space(run.stage(stage), 1.0, "set RUNS="))
    with logged(run.stage(stage)):
        _run_stage(run, stage)


def _run_stage(run: Run, stage: str) -> None:
    if trained(stage):
        try:
            train(run, stage)
        except NoSignal as error:
            # No row of an earlier recipe stays; what the pre-flight saw does.
            folder = run.stage(stage)
            by_main(lambda: (folder / "scores.json").unlink(missing_ok=True))
            by_main(lambda: shutil.copy(folder / "work" / "preflight.json", folder / REFUSED))
            if stage not in CONTROLS:
                raise
            say(f"{error}. A control with nothing to learn is its parent, so it gets no row")
            return
    if stage != BUDGETED:  # asked with budgets, by pipeline/tradeoff.py
        answer(run, stage)


def trained(stage: str) -> bool:
    """Whether a stage has an adapter of its own."""
    return stage in TRAINED or stage.startswith(ROUND)


def parent_of(run: Run, stage: str) -> str | None:
    """The stage whose adapter this one trains on or, a later round of sft, samples traces of."""
    real = CONTROLS.get(stage, (stage, {}))[0]
    if real in ("rl", "adaptive", BUDGETED):
        return {"rl": "sft", "adaptive": "rl", BUDGETED: "rl"}[real]
    if trained(stage) and settings_of(run, stage).rounds > 1:
        return f"{ROUND}{settings_of(run, stage).rounds - 1}"
    return None


def settings_of(run: Run, stage: str) -> Any:
    """The section of the recipe that a stage runs under."""
    if stage.startswith(ROUND):
        return dataclasses.replace(run.recipe.sft, rounds=int(stage.removeprefix(ROUND)))
    real, change = CONTROLS.get(stage, (stage, {}))
    return dataclasses.replace(getattr(run.recipe, real), **change)


def adapter_of(run: Run, stage: str) -> Path | None:
    """The folder of a trained stage's adapter; None for a prompted stage."""
    return run.stage(stage) / "adapter" if trained(stage) else None


def training_inputs(run: Run, stage: str) -> dict[str, Any]:
    """What a stage's adapter is made from."""
    parent, settings = parent_of(run, stage), settings_of(run, stage)
    read: dict[str, Any] = {}
    if isinstance(settings, SftSettings):
        told = [[t.question, t.rationale] for t in traces.mixture(sft_problems(settings), settings, run.recipe.seed)]
        read["traces"] = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        read |= {"own": runs.settings(run.recipe.traces)} if parent else {}
    elif Path(file := settings.reward.rpartition(":")[0]).is_file():
        read["reward"] = sha256_of(file)
    return {
        "base": run.fingerprint,
        "load": base.held_as(run.recipe.base.load),
        "settings": runs.settings(settings),
        "seed": run.recipe.seed,
        "stands_on": runs.folder_hash(run.stage(parent) / "adapter") if parent else None,
        "prompt": wording_hash("think"),
        **({"max_tokens": run.recipe.eval.max_tokens} if isinstance(settings, SftSettings) else {}),
        "problems": (runs.ROOT / "data" / "benchmarks" / "SHA256SUMS").read_text(),
        **({"read": read} if read else {}),
    }


def scoring_inputs(run: Run, stage: str) -> dict[str, Any]:
    """What a stage's completions and scores are made from."""
    adapter = adapter_of(run, stage)
    return {
        "base": run.fingerprint,
        "load": base.held_as(run.recipe.base.load),
        "adapter": runs.folder_hash(adapter) if adapter else None,
        "variants": [[*variant, wording_hash(*variant[1:])] for variant in variants(run, stage)],
        "settings": {"max_tokens": run.recipe.eval.max_tokens, "batch_size": run.recipe.eval.batch_size},
        "benchmarks": {b.name: [b.sha256, len(b.problems)] for b in run.benchmarks},
        "extraction": EXTRACTION_VERSION,
        "scores": SCORES_VERSION,
    }


def status(run: Run) -> dict[str, str]:
    """Of each stage, and round of sft before the last, whether it is up to date, and if not, why."""
    found: dict[str, str] = {}
    for stage in (*STAGES[:2], *(f"{ROUND}{i}" for i in range(1, run.recipe.sft.rounds)), *STAGES[2:]):
        made, parent = runs.manifest(run.stage(stage)), parent_of(run, stage)
        needed = {"training": training_inputs} if trained(stage) else {}
        reasons = []
        for part, inputs in (needed | {"scoring": scoring_inputs}).items():
            if part not in made:
                reasons.append(f"no {part} yet")
                continue
            changed = runs.differences(made[part].get("inputs"), json.loads(json.dumps(inputs(run, stage))))
            reasons += [f"{part}: {change}" for change in changed]
        lost = [
            path
            for path in table.damaged(run.stage(stage), "training")
            if path.is_file() or path.parent.name == "adapter"
        ]
        # What a training left beside its adapter may be deleted: see table.check_beside.
        reasons += [f"{path} is not what was written" for path in lost]
        reasons += [f"{path} is not what it was scored with" for path in table.damaged(run.stage(stage))]
        if found.get(parent or "", "up to date") != "up to date":
            reasons.append(f"{parent}, which it stands on, is not up to date")
        found[stage] = "; ".join(reasons) or "up to date"
    return found


def train(run: Run, stage: str) -> None:
    """Train the stage's adapter unless the one on disk was made from the same inputs."""
    section, inputs = settings_of(run, stage), by_main(lambda: training_inputs(run, stage))
    work = by_main(lambda: begun(run, stage, inputs))
    if work is None:
        return
    # By default in work, which does not stay.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.stage(stage) / "tensorboard")
    say(f"{stage}: training")
    start = time.monotonic()
    best = (train_sft if isinstance(section, SftSettings) else train_rl)(run, stage, section, work)
    if run.recipe.tracker == "wandb":
        importlib.import_module("wandb").finish()  # else the next stage goes on with this one's run
    by_main(lambda: keep(run, stage, inputs, work, best, start))


def begun(run: Run, stage: str, inputs: dict[str, Any]) -> Path | None:
    """The folder to train in; None where the adapter on disk was made from these inputs."""
    stage_dir = run.stage(stage)
    if runs.up_to_date(stage_dir, "training", inputs):
        lost = [path for path in table.damaged(stage_dir, "training") if path.parent.name == "adapter"]
        if not lost:
            if stage_dir / "recipe.yaml" in table.damaged(stage_dir, "training"):
                write_recipe(run, stage)
            runs.clear(stage_dir / "work", inputs)
            return None
        say(f"{stage}: {lost[0]} is not what was trained; training it again")
    return runs.work_folder(stage_dir, inputs)


def keep(run: Run, stage: str, inputs: dict[str, Any], work: Path, best: Path, start: float) -> None:
    """Keep what a training left in ``work``, the adapter in ``best``, and say what it was made from."""
    stage_dir = run.stage(stage)
    (stage_dir / "scores.json").unlink(missing_ok=True)  # no table shows an older adapter's row beside this one
    shutil.rmtree(stage_dir / "adapter", ignore_errors=True)
    shutil.copytree(best, stage_dir / "adapter.new", dirs_exist_ok=True)
    (stage_dir / "adapter.new").rename(stage_dir / "adapter")
    for name in LEFT_BEHIND:
        (stage_dir / name).unlink(missing_ok=True)
        if (work / name).is_file():
            shutil.copy(work / name, stage_dir / name)
    write_recipe(run, stage)
    seconds = time.monotonic() - start
    made = runs.folder_hash(stage_dir / "adapter")
    alarm = stage_dir / "alarm.txt"
    heard = {"alarm": alarm.read_text().strip()} if alarm.is_file() else {}
    left = [stage_dir / name for name in (*READ_AGAIN, "recipe.yaml")]
    weights = [*(stage_dir / "adapter").glob("*.json"), *(stage_dir / "adapter").glob("*.safetensors")]
    runs.record(
        stage_dir,
        "training",
        inputs,
        seconds,
        base=run.base,
        adapter=made,
        stands_on=parent_of(run, stage),
        overlaps=run.overlaps,
        files=runs.hashes(stage_dir, [*weights, *left]),
        **heard,
    )
    shutil.rmtree(work)
    say(f"{stage}: trained in {seconds:.0f} s")


def write_recipe(run: Run, stage: str) -> None:
    """Write a stage's settings as they were resolved."""
    section = {"seed": run.recipe.seed, "profile": run.profile, stage: runs.settings(settings_of(run, stage))}
    write_text(run.stage(stage) / "recipe.yaml", yaml.safe_dump(section, sort_keys=False))


def train_sft(run: Run, stage: str, settings: SftSettings, work: Path) -> Path:
    """Stage 3, or one of its rounds; returns the folder of the adapter."""
    import torch

    from pipeline import sft
    from pipeline.callbacks import seal, training_bar
    from pipeline.reward import correctness
    from pipeline.samples import Task, dev_scores

    seed, parent = run.recipe.seed, parent_of(run, stage)
    problems = traces.mixture(sft_problems(settings), settings, seed)
    if parent:
        own, account = own_traces(run, parent)
        by_main(lambda: write_records(work / "traces.jsonl", own))
        by_main(lambda: write_json(work / "traces.json", account))
        by_main(lambda: seal(work, [work / "traces.jsonl", work / "traces.json"]))
        say(traces.told(account))
        problems += own
    torch.manual_seed(seed)  # the adapter's first weights
    model, tokenizer = run.load(trainable=True)
    rows = sft.tokenized(tokenizer, sft.traces(problems, settings, seed), told=settings.direct_told, seed=seed)
    whole = [row for row in rows if sum(row["completion_mask"]) <= run.recipe.eval.max_tokens]
    if len(whole) < len(rows):
        say(f"{stage}: {len(rows) - len(whole)} of {len(rows)} traces are longer than eval.max_tokens; left out")
    if not whole:
        raise BadInput(
            f"{stage}: no trace is left to train on; raise sft.arithmetic, eval.max_tokens or traces.samples"
        )
    dev = [p for of_it in dev_problems(settings.dev).values() for p in of_it]
    curve = sft.Curve(
        lambda model: dev_scores(model, tokenizer, dev, Task(correctness), run.recipe.eval.max_tokens),
        settings.eval_every,
        work,
    )
    watching = [curve, training_bar(stage)]
    model = sft.train(model, tokenizer, whole, settings, seed, work, sft.lora(settings), watching, run.recipe.tracker)
    weights = processes.trained_weights(model)
    by_main(lambda: model.save_pretrained(work / "final", state_dict=weights))
    return work / "final"


def train_rl(run: Run, stage: str, settings: RlSettings, work: Path) -> Path:
    """Stages 4 and 5; returns the folder of the best adapter on dev."""
    from pipeline import rl
    from pipeline.reward import reward_of
    from pipeline.samples import Task

    # In stage 5 problems are answered at once and with a thought, so that neither way dies out and every problem shows
    # which of the two pays (AdaptThink, arXiv 2505.13417, section 3.3); where there is a reference, what the parent
    # earned by itself stands for the second way.
    prefixes = (DIRECT, f"{THINK}\n") if stage in ("adaptive", BUDGETED) else ()
    task = Task(reward_of(settings), prefixes, tuple(settings.budgets))
    pools = by_level(train_problems(run.recipe, settings.arithmetic, settings.logic, settings.levels))
    dev = by_level(dev_problems(settings.dev))
    model, tokenizer = run.load(adapter_of(run, str(parent_of(run, stage))), trainable=True)
    return rl.train(
        model, tokenizer, pools, dev, task, settings, run.recipe.seed, work, stage, tracker=run.recipe.tracker
    )


def variants(run: Run, stage: str) -> list[tuple[str, str, int]]:
    """(name, prompt, shots) of each row that a stage has in the table."""
    if trained(stage):
        return [("zero-shot", "think", 0)]
    shots = settings_of(run, stage).shots
    return [("zero-shot" if n == 0 else f"{n}-shot", stage, n) for n in shots]


def answer(run: Run, stage: str) -> None:
    """Score the stage on every benchmark unless that was done with the same inputs."""
    asked, inputs = variants(run, stage), by_main(lambda: scoring_inputs(run, stage))
    partial = by_main(lambda: unanswered(run, stage, inputs))
    if partial is None:
        return
    start, given = time.monotonic(), []
    model, tokenizer = run.load(adapter_of(run, stage))
    for variant, prompt, shots in asked:
        for benchmark in run.benchmarks:
            inside = Path(variant) if len(asked) > 1 else Path()
            kept = partial / inside / benchmark.name
            completions = answers.complete(
                model,
                tokenizer,
                benchmark.problems,
                prompt,
                shots,
                max_tokens=run.recipe.eval.max_tokens,
                batch_size=run.recipe.eval.batch_size,
                label=f"{stage} {variant} {benchmark.name}",
                kept=kept,
            )
            given.append((completions, by_main(functools.partial(answers.spent, kept))))
    by_main(lambda: grade_and_score(run, stage, inputs, asked, given, start))


def unanswered(run: Run, stage: str, inputs: dict[str, Any]) -> Path | None:
    """The folder for answers as they come; None where the stage, or the tradeoff, was scored with these inputs."""
    stage_dir = run.stage(stage)
    for benchmark in run.benchmarks:
        write_records(run.root / "problems" / f"{benchmark.name}.jsonl", benchmark.problems)
    if runs.up_to_date(stage_dir, "scoring", inputs):
        if not (lost := table.damaged(stage_dir)):
            runs.clear(stage_dir / "partial", inputs)
            console.print(f"{stage}: up to date")  # nothing happened, so the log says nothing
            return None
        say(f"{stage}: {lost[0]} is not what was answered; answering again")
    return runs.work_folder(stage_dir, inputs, "partial")


def grade_and_score(run: Run, stage: str, inputs: dict[str, Any], asked, given, start: float) -> None:
    """Write the answers (completions and their seconds, of each variant and benchmark in turn), grades and scores."""
    stage_dir, given = run.stage(stage), iter(given)
    scored, files = [], [stage_dir / "scores.json"]
    for variant, prompt, shots in asked:
        entries = []
        for benchmark in run.benchmarks:
            inside = Path(variant) if len(asked) > 1 else Path()
            completions_file = Path("completions") / inside / f"{benchmark.name}.jsonl"
            grades_file = Path("grades") / inside / f"{benchmark.name}.jsonl"
            completions, seconds = next(given)
            write_records(stage_dir / completions_file, completions)
            grades = grade_all(benchmark.problems, read_completions(stage_dir / completions_file))
            write_records(stage_dir / grades_file, grades)
            files += [stage_dir / completions_file, stage_dir / grades_file]
            about = {
                "benchmark": benchmark.name,
                "benchmark_sha256": benchmark.sha256,
                "problems_sha256": sha256_of(run.root / "problems" / f"{benchmark.name}.jsonl"),
                "completions": str(completions_file),
                "grades": str(grades_file),
                "overlaps": overlapping(run, stage, benchmark, shots),
            }
            entries.append(about | score(benchmark.problems, completions, grades, seconds))
        scored.append({"variant": variant, "prompt": prompt, "shots": shots, "benchmarks": entries})
    if not trained(stage):
        write_recipe(run, stage)
        files.append(stage_dir / "recipe.yaml")
    scores = {"stage": stage, "extraction": EXTRACTION_VERSION, "variants": scored}
    if trained(stage):
        made = runs.manifest(stage_dir)["training"]
        scores |= {"stands_on": made["stands_on"], "alarm": made.get("alarm")}
    write_json(stage_dir / "scores.json", scores)
    seconds = time.monotonic() - start
    about = {"base": run.base, "source": base.source(run.folder), "files": runs.hashes(stage_dir, files)}
    about |= {"benchmarks": {b.name: b.source for b in run.benchmarks if b.source}, "seed": run.recipe.seed}
    runs.record(stage_dir, "scoring", inputs, seconds, **about)
    shutil.rmtree(stage_dir / "partial")
    say(f"{stage}: scored in {seconds:.0f} s")


def overlapping(run: Run, stage: str, benchmark: Benchmark, shots: int) -> int:
    """How many problems of a benchmark are given away by what a stage has seen: all of train, or its exemplars."""
    pairs = run.overlaps[benchmark.name]
    if trained(stage):
        return len(pairs)
    shown = {exemplar.id for problem in benchmark.problems for exemplar in exemplars(problem, shots)}
    return sum(train in shown for train, _, _ in pairs)


def done(run_dir: Path) -> list[str]:
    """The stages that have been scored, in order."""
    return [stage for stage in STAGES if (run_dir / stage / "scores.json").is_file()]
