"""``make tradeoff``: accuracy against tokens, of all ways to decide how long to think.

The adapter of rl is made to think never, always, and up to a few budgets. The learnt choice is what the adapter of
adaptive was scored with; its probability of a direct answer is swept over thresholds. In runs/BASE/tradeoff lie
curve.json, curve.png, and the answers that they are drawn from.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.datasets import Dataset
from data.files import read_json, write_json
from data.problem import read_completions, write_records
from eval.curve import Outcome, collect_outcome, make_curve, plot_curve, pool_outcomes
from eval.grade import grade_all
from eval.table import POOLED
from pipeline.choice import THINKING, compute_direct_probabilities
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.progress import say
from pipeline.run import Run
from pipeline.run_dir import StageDir
from pipeline.stages.adaptive import ADAPTIVE
from pipeline.stages.rl import RL
from pipeline.stages.run import run_stage, scoring_inputs
from pipeline.stages.stage import Stage
from pipeline.thinking_budget import ThinkingLimits

# The most tokens of a thought that is cut off.
BUDGETS = (8, 16, 32, 64)

PROBABILITIES = "probabilities.json"


@dataclass(frozen=True)
class Way:
    """One way to answer: how each text begins, and the limits on its thought."""

    name: str
    prefix: str
    thinking: ThinkingLimits | None


NEVER = Way("never", "", ThinkingLimits(max_tokens=0))
ALWAYS = Way("always", THINKING, None)
FORCED = {budget: Way(f"budget-{budget}", THINKING, ThinkingLimits(max_tokens=budget)) for budget in BUDGETS}
WAYS = (NEVER, ALWAYS, *FORCED.values())

CHOICE = "choice"


def measure_tradeoff(run: Run) -> str:
    """Bring the stages and the answers up to date, write the curves and the plot; return the points as a table."""
    run_stage(run, ADAPTIVE)
    folder = run.dir.root / "tradeoff"
    # One level below the stages' folders, or the table would take it for a stage.
    answers = StageDir(folder / "answers")
    answer_all(run, answers)

    curves = make_curves(run, answers)
    write_json(folder / "curve.json", curves)
    plot_curve(next(iter(curves.values())), folder / "curve.png")
    return f"{format_curves(curves)}\n{folder / 'curve.png'}"


def answer_all(run: Run, answers: StageDir) -> None:
    """Answer every benchmark in every way unless that was done with the same inputs."""
    inputs: dict[str, Any] = {"budgets": list(BUDGETS)}
    for stage in (RL, ADAPTIVE):
        inputs[stage.name] = scoring_inputs(run, stage)

    if not answers.find_changes("scoring", inputs) and not answers.find_damaged("scoring"):
        answers.remove_leftovers("scoring", inputs)
        say("tradeoff: up to date")
        return

    start = time.monotonic()
    partial = answers.begin("scoring", inputs)
    files = []
    model, tokenizer = load_stage_model(run, RL)
    for way in WAYS:
        for benchmark in run.benchmarks:
            evaluation = evaluate(
                model,
                tokenizer,
                benchmark.problems,
                RL.prompt,
                max_new_tokens=run.recipe.eval.generation["max_new_tokens"],
                batch_size=run.recipe.eval.batch_size,
                thinking=way.thinking,
                prefix=way.prefix,
                label=f"tradeoff {way.name} {benchmark.name}",
                partial=partial / way.name / benchmark.name,
            )
            files.append(answers.folder / way.name / f"{benchmark.name}.jsonl")
            write_records(files[-1], evaluation.completions)

    files.append(answers.folder / PROBABILITIES)
    write_json(files[-1], measure_probabilities(run))
    seconds = round(time.monotonic() - start, 1)
    answers.finish("scoring", inputs, files, {"base": run.base, "profile": run.profile, "seconds": seconds})


def measure_probabilities(run: Run) -> dict[str, list[float]]:
    """Return what the adaptive stage gives a direct answer, for the problems of each benchmark."""
    model, tokenizer = load_stage_model(run, ADAPTIVE)
    probabilities = {}
    for benchmark in run.benchmarks:
        probabilities[benchmark.name] = compute_direct_probabilities(model, tokenizer, benchmark.problems)
    return probabilities


def load_stage_model(run: Run, stage: Stage) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a stage."""
    return load_model(run.base_folder, run.dir.stage(stage.name).adapter, load=run.recipe.base.load)


def make_curves(run: Run, answers: StageDir) -> dict[str, dict[str, Any]]:
    """Return the curve of each benchmark, after that of all where there are several."""
    direct = read_json(answers.folder / PROBABILITIES)
    outcomes = {benchmark.name: read_outcomes(run, answers, benchmark) for benchmark in run.benchmarks}

    groups = {name: [name] for name in outcomes}
    if len(groups) > 1:
        groups = {POOLED: list(outcomes), **groups}

    curves = {}
    for group, names in groups.items():
        pooled = {}
        for way in outcomes[names[0]]:
            pooled[way] = pool_outcomes([outcomes[name][way] for name in names])

        curves[group] = make_curve(
            never=pooled[NEVER.name],
            always=pooled[ALWAYS.name],
            forced={budget: pooled[way.name] for budget, way in FORCED.items()},
            choice=pooled[CHOICE],
            direct_probability=np.concatenate([direct[name] for name in names]),
        )
    return curves


def read_outcomes(run: Run, answers: StageDir, benchmark: Dataset) -> dict[str, Outcome]:
    """Return what each way came to on a benchmark."""
    name = f"{benchmark.name}.jsonl"
    files = {way.name: answers.folder / way.name / name for way in WAYS}

    # The stage was scored with its own choice.
    adaptive = run.dir.stage(ADAPTIVE.name)
    [variant] = adaptive.read_scores()["variants"]
    for entry in variant["benchmarks"]:
        if entry["benchmark"] == benchmark.name:
            files[CHOICE] = adaptive.folder / entry["completions"]

    outcomes = {}
    for way, file in files.items():
        completions = read_completions(file)
        grades = grade_all(benchmark.problems, completions)
        outcomes[way] = collect_outcome(benchmark.problems, completions, grades)
    return outcomes


def format_curves(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the points of all curves as a Markdown table, and what the learnt choice has over a coin."""
    lines = ["| benchmark | way | limit | accuracy | tokens |", "|---|---|--:|--:|--:|"]
    notes = [""]
    for benchmark, curve in curves.items():
        for point in curve["points"]:
            limit = "" if point["limit"] is None else f"{point['limit']:.3g}"
            interval = f"[{100 * point['ci_low']:.1f}, {100 * point['ci_high']:.1f}]"
            accuracy = f"{100 * point['accuracy']:.1f} {interval}"
            lines.append(f"| {benchmark} | {point['name']} | {limit} | {accuracy} | {point['tokens']:.1f} |")

        value, low, high = [100 * curve["above_coin"][key] for key in ("value", "ci_low", "ci_high")]
        notes.append(
            f"{benchmark}, n = {curve['n']}: the learnt choice is {value:.1f} points [{low:.1f}, {high:.1f}] above a "
            "coin of the same cost."
        )
    return "\n".join([*lines, *notes])
