"""The command that scores any model on any benchmark.

    python -m pipeline score --model FOLDER|BASE --benchmark FILE|NAME --prompt plain|cot|think|FILE.yaml \\
        [--shots N] [--budget N] [--min-thinking N] [--samples N [--temperature T]] [--limit N] [--url URL] --out FOLDER

asks the model, grades what it wrote and leaves OUT/completions/NAME.jsonl, OUT/grades/NAME.jsonl and OUT/scores.json.
It gives one greedy completion a problem; with ``--samples`` N samples each, in folders sample-1 and so on, for pass@k
and maj@N.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from data.datasets import Dataset
from data.files import UserError, suggest, write_json
from data.problem import Grade, write_records
from data.splits import take_stratified
from eval.extract import EXTRACTION_VERSION
from eval.grade import grade_all, load_benchmark
from eval.score import SCORES_VERSION, score_completions, score_samples
from pipeline.config import Recipe, default_profile, load_recipe
from pipeline.prompts import INSTRUCTIONS, CustomPrompt, Prompt
from pipeline.run_dir import StageDir
from pipeline.stages.prompted import load_examples
from pipeline.thinking_budget import ThinkingLimits


@dataclass(frozen=True)
class ScoredModel:
    """A model to be scored, and the recipe that says how it is asked."""

    model: Any
    tokenizer: Any
    recipe: Recipe
    max_new_tokens: int


@dataclass(frozen=True)
class ScoredSample:
    """One completion of every problem: its grades and its scores."""

    grades: list[Grade]
    scores: dict[str, Any]


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``score`` command."""
    parser.add_argument("--model", required=True, metavar="FOLDER|BASE", help="a stage's folder, or a base model")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME", help="a data set, or a file of problems")
    parser.add_argument("--prompt", required=True, metavar="plain|cot|think|FILE.yaml", help="what it is asked with")
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="worked examples before the question")
    parser.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    parser.add_argument("--min-thinking", type=int, default=0, metavar="N", help="the fewest it may end with")
    parser.add_argument("--samples", type=int, metavar="N", help="samples of each problem: pass@k and maj@N")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of --samples (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="of --samples")
    parser.add_argument("--limit", type=int, metavar="N", help="problems, stratified by level")
    parser.add_argument("--url", metavar="URL", help="where a server has the model (vLLM's /v1; docs/machines.md)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")


def score_model(options: argparse.Namespace) -> dict[str, Any]:
    """Ask a model a benchmark, grade and score it; write everything into ``options.out`` and return the scores."""
    _check_score_options(options)
    prompt = read_prompt(options.prompt)
    benchmark = load_benchmark(options.benchmark)
    if options.limit:
        benchmark = replace(benchmark, problems=take_stratified(benchmark.problems, options.limit))

    # After all checks, since loading may take minutes.
    scored_model = load_scored_model(options)
    samples = []
    for number in range(options.samples or 1):
        samples.append(_score_sample(options, scored_model, benchmark, prompt, number))

    scores = _describe_scoring(options, benchmark)
    if options.samples:
        all_grades = [sample.grades for sample in samples]
        scores |= {"temperature": options.temperature, "seed": options.seed}
        scores |= score_samples(benchmark.problems, all_grades)
        scores["each"] = [sample.scores for sample in samples]
    else:
        scores |= samples[0].scores

    write_json(options.out / "scores.json", scores)
    print("\n".join(_summarize(scores)))
    return scores


def load_scored_model(options: argparse.Namespace) -> ScoredModel:
    """Load what ``options.model`` names: a stage of a run, asked as it was there, or a base, perhaps served at a URL.

    Raises:
        UserError: Where a stage's adapter is damaged, or a stage is to be served.
    """
    from pipeline.models.load import load_model, resolve

    stage = StageDir(Path(options.model))
    part = stage.read_part("training") or stage.read_part("scoring")
    base = part["base"] if part else options.model
    recipe = load_recipe(default_profile(), base=base)

    # A stage is asked as it was scored, whatever this machine would choose.
    load = recipe.base.load
    generation = recipe.eval.generation
    if part:
        load = part["inputs"]["load"]
        generation = part["inputs"]["generation"]

    if options.url:
        if part:
            raise UserError(f"--model {options.model}: a server has no stages; export it and serve that")
        from pipeline.client import ServedModel

        served = ServedModel(options.url, resolve(base))
        return ScoredModel(served, served.tokenizer, recipe, generation["max_new_tokens"])

    adapter = None
    if stage.read_part("training"):
        stage.check_adapter()
        adapter = stage.adapter

    model, tokenizer = load_model(resolve(base), adapter, load=load)
    return ScoredModel(model, tokenizer, recipe, generation["max_new_tokens"])


def read_prompt(text: str) -> Prompt:
    """Return the prompt of a name, or of a YAML file with ``instruction`` and ``format``."""
    if text in INSTRUCTIONS:
        return text

    path = Path(text)
    if not path.is_file():
        raise UserError(f"--prompt {text}: no such prompt or file; {suggest(text, INSTRUCTIONS)}")

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {"instruction", "format"}:
        raise UserError(f"{path}: a prompt has the keys instruction and format; write these two")
    if content["format"] not in INSTRUCTIONS:
        raise UserError(f"{path}: format is {content['format']!r}; {suggest(str(content['format']), INSTRUCTIONS)}")

    return CustomPrompt(str(content["instruction"]), content["format"])


def _check_score_options(options: argparse.Namespace) -> None:
    """Refuse numbers that make no sense."""
    for name in ("samples", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more")

    for name in ("shots", "min_thinking", "budget"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be 0 or more")

    if options.samples and not 0 < options.temperature < math.inf:
        raise UserError(f"--temperature is {options.temperature}; it must be above 0, or all samples are the same")

    if options.url and (options.budget is not None or options.min_thinking):
        raise UserError("--url: a server knows no --budget and no --min-thinking; leave them out, or the server")


def _score_sample(
    options: argparse.Namespace, scored: ScoredModel, benchmark: Dataset, prompt: Prompt, number: int
) -> ScoredSample:
    """Ask every problem once; write completions and grades."""
    from pipeline.evaluate import evaluate

    name = f"sample-{number + 1}" if options.samples else ""
    problems = benchmark.problems
    prompted = scored.recipe.stages["cot"].model_copy(update={"shots": [options.shots]})

    evaluation = evaluate(
        scored.model,
        scored.tokenizer,
        problems,
        prompt,
        examples=load_examples(benchmark, prompted),
        max_new_tokens=scored.max_new_tokens,
        batch_size=scored.recipe.eval.batch_size,
        thinking=ThinkingLimits(options.min_thinking, options.budget),
        temperature=options.temperature if options.samples else 0.0,
        # No two seeds of the command share a sample.
        seed=1_000_003 * options.seed + number,
        label=f"{benchmark.name} {name}".strip(),
    )
    grades = grade_all(problems, evaluation.completions)

    file = Path(name) / f"{benchmark.name}.jsonl"
    write_records(options.out / "completions" / file, evaluation.completions)
    write_records(options.out / "grades" / file, grades)

    scores = {"completions": f"completions/{file}", "grades": f"grades/{file}"}
    scores |= score_completions(problems, evaluation.completions, grades, evaluation.seconds)
    return ScoredSample(grades, scores)


def _describe_scoring(options: argparse.Namespace, benchmark: Dataset) -> dict[str, Any]:
    """What scores.json says besides the scores."""
    names = ("model", "url", "prompt", "shots", "budget", "min_thinking")
    return {name: getattr(options, name) for name in names} | {
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "extraction_version": EXTRACTION_VERSION,
        "scores_version": SCORES_VERSION,
    }


def _summarize(scores: dict[str, Any]) -> list[str]:
    """The lines that the command prints."""
    name = scores["benchmark"]
    if "each" not in scores:
        accuracy = _format_accuracy(scores)
        tokens = f"{scores['tokens_mean']:.1f} tokens"
        boxed = f"boxed {100 * scores['format_rate']:.0f} %"
        truncated = f"truncated {100 * scores['truncated_rate']:.0f} %"
        return [f"{name}: {accuracy} of {scores['n']}, {tokens}, {boxed}, {truncated}"]

    count = len(scores["each"])
    n = scores["each"][0]["n"]
    lines = [f"{name}, {count} samples at temperature {scores['temperature']}, n = {n}:"]
    for k, share in scores["pass_at"].items():
        lines.append(f"  pass@{k} {_format_accuracy(share)}")
    lines.append(f"  maj@{count} {_format_accuracy(scores['maj'])}")
    return lines


def _format_accuracy(share: dict[str, Any]) -> str:
    return f"{100 * share['accuracy']:.1f} % [{100 * share['ci_low']:.1f}, {100 * share['ci_high']:.1f}]"
