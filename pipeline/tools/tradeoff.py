"""``make tradeoff``: accuracy against tokens, of all ways to decide how long to think.

The adapter of rl is made to think never, always, and up to a few budgets. The learnt choice is what the adapter of
adaptive was scored with; its probability of a direct answer is swept over thresholds. In runs/BASE/tradeoff lie
curve.json, curve.png, and the answers that they are drawn from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import Dataset
from data.files import read_json, write_json
from data.problem import read_completions, write_records
from eval.curve import Outcome, make_curve, plot_curve
from eval.grade import grade_all
from eval.table import format_markdown, group_benchmarks
from pipeline.choice import THINKING, compute_direct_probabilities
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.progress import say
from pipeline.run import Run
from pipeline.stage_dir import StageDir
from pipeline.stages.adaptive import ADAPTIVE
from pipeline.stages.rl import RL
from pipeline.stages.run import is_up_to_date, run_stage, scoring_inputs
from pipeline.stages.stage import Stage
from pipeline.thinking_budget import ThinkingLimits

# The most tokens of a thought that is cut off.
BUDGETS = (8, 16, 32, 64)

PROBABILITIES = "probabilities.json"

HEADINGS = ("benchmark", "variant", "limit", "accuracy", "tokens")


# How each text begins, and the most tokens of its thought. A limit of 0 forces a direct answer by itself.
WAYS: dict[str, tuple[str, int | None]] = {"never": ("", 0), "always": (THINKING, None)}
WAYS |= {f"budget-{budget}": (THINKING, budget) for budget in BUDGETS}


def measure_tradeoff(run: Run) -> str:
    """Bring the stages and the answers up to date, write the curves and the plot; return the points as a table."""
    run_stage(run, ADAPTIVE)
    folder = run.dir.root / "tradeoff"
    # One level below the stages' folders, or the table would take it for a stage.
    answers = StageDir(folder / "answers")
    answer_all(run, answers)

    curves = make_curves(run, answers)
    write_json(folder / "curve.json", curves)

    # The first is that of all benchmarks, where there are several.
    first = next(iter(curves.values()))
    plot = folder / "curve.png"
    plot_curve(first, plot)
    return f"{format_curves(curves)}\n{plot}"


def answer_all(run: Run, answers: StageDir) -> None:
    """Answer every benchmark in every way unless that was done with the same inputs."""
    # What the stages are scored with is all that the answers depend on.
    inputs: dict[str, Any] = {"budgets": list(BUDGETS)}
    for stage in (RL, ADAPTIVE):
        inputs[stage.name] = scoring_inputs(run, stage)

    if is_up_to_date(answers, "scoring", inputs):
        say("tradeoff: up to date")
        return

    partial = answers.begin("scoring", inputs)
    files = []
    model, tokenizer = load_stage_model(run, RL)
    for name, (prefix, limit) in WAYS.items():
        for benchmark in run.benchmarks:
            evaluation = evaluate(
                model,
                tokenizer,
                benchmark.problems,
                RL.prompt,
                max_new_tokens=run.recipe.eval.generation["max_new_tokens"],
                batch_size=run.recipe.eval.batch_size,
                thinking=ThinkingLimits(max_tokens=limit),
                prefix=prefix,
                label=f"tradeoff {name} {benchmark.name}",
                partial=partial / name / benchmark.name,
            )
            file = answers.folder / name / f"{benchmark.name}.jsonl"
            write_records(file, evaluation.completions)
            files.append(file)

    file = answers.folder / PROBABILITIES
    write_json(file, measure_probabilities(run))
    files.append(file)

    made_from = {"base": run.base, "profile": run.profile}
    answers.finish("scoring", inputs, files, made_from)


def measure_probabilities(run: Run) -> dict[str, list[float]]:
    """Return what the adaptive stage gives a direct answer, for the problems of each benchmark."""
    model, tokenizer = load_stage_model(run, ADAPTIVE)
    probabilities = {}
    for benchmark in run.benchmarks:
        found = compute_direct_probabilities(model, tokenizer, benchmark.problems)
        probabilities[benchmark.name] = found
    return probabilities


def load_stage_model(run: Run, stage: Stage) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a stage."""
    adapter = run.dir.stage(stage.name).adapter
    return load_model(run.base_folder, adapter, load=run.recipe.base.load)


def make_curves(run: Run, answers: StageDir) -> dict[str, dict[str, Any]]:
    """Return the curve of each benchmark, after that of all where there are several."""
    direct = read_json(answers.folder / PROBABILITIES)
    # The adaptive stage was scored with its own choice.
    folders = {name: answers.folder / name for name in WAYS}
    folders["choice"] = run.dir.stage(ADAPTIVE.name).folder / "completions"

    curves = {}
    # The first is the one that is plotted.
    for group, benchmarks in group_benchmarks(run.benchmarks).items():
        outcomes = {way: read_outcome(folder, benchmarks) for way, folder in folders.items()}
        # In the order in which the outcomes are pooled.
        probabilities = [direct[benchmark.name] for benchmark in benchmarks]
        curves[group] = make_curve(
            never=outcomes["never"],
            always=outcomes["always"],
            forced={budget: outcomes[f"budget-{budget}"] for budget in BUDGETS},
            choice=outcomes["choice"],
            direct_probability=np.concatenate(probabilities),
        )
    return curves


def read_outcome(folder: Path, benchmarks: Sequence[Dataset]) -> Outcome:
    """Return what one way came to on benchmarks, from the completions in its folder."""
    correct = []
    tokens = []
    for benchmark in benchmarks:
        # In the order of the problems, which all ways to answer share.
        completions = read_completions(folder / f"{benchmark.name}.jsonl")
        grades = grade_all(benchmark.problems, completions)
        correct += [grade.correct for grade in grades]
        tokens += [completion.tokens for completion in completions]
    return Outcome(np.array(correct, dtype=float), np.array(tokens, dtype=float))


def format_curves(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the points of all curves as a Markdown table, and what the learnt choice has over a coin."""
    rows = []
    for benchmark, curve in curves.items():
        for point in curve["points"]:
            # Always and never have none.
            limit = "" if point["limit"] is None else f"{point['limit']:.3g}"
            accuracy = format_percent(point["accuracy"], point)
            tokens = f"{point['tokens']:.1f}"
            rows.append([benchmark, point["name"], limit, accuracy, tokens])

    lines = [format_markdown(HEADINGS, rows)]
    for benchmark, curve in curves.items():
        above = curve["above_coin"]
        gain = format_percent(above["value"], above)
        lines.append(f"{benchmark}: the learnt choice is {gain} points above a coin of the same cost.")
    return "\n".join(lines)


def format_percent(value: float, interval: Mapping[str, float]) -> str:
    """Return a share and its interval in percent."""
    low = 100 * interval["ci_low"]
    high = 100 * interval["ci_high"]
    return f"{100 * value:.1f} [{low:.1f}, {high:.1f}]"
