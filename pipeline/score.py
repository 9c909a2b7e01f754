"""The command that scores any model on any benchmark.

    python -m pipeline score --model FOLDER|BASE --benchmark FILE|NAME --prompt plain|cot|think|FILE.yaml \\
        [--shots N] [--budget N] [--min-thinking N] [--samples N [--temperature T]] [--limit N] [--url URL] --out FOLDER

asks the model, grades what it wrote and leaves OUT/completions/NAME.jsonl, OUT/grades/NAME.jsonl and OUT/scores.json.
It gives one greedy completion a problem; with ``--samples`` N samples each, in folders sample-1 and so on, for pass@k
and maj@N.
"""

import argparse
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.command_line import at_least
from data.files import UserError, make_folder, suggest, write_json
from data.problem import Problem
from data.splits import take_stratified
from eval.extract import EXTRACTION_VERSION
from eval.grade import load_benchmark
from eval.score import SAMPLING_TEMPERATURE, SCORES_VERSION, score_samples
from pipeline.config import default_profile, load_recipe, read_yaml
from pipeline.prompts import INSTRUCTIONS, CustomPrompt, Prompt, format_question
from pipeline.settings import Recipe
from pipeline.stage_dir import StageDir, write_answers
from pipeline.stages.prompted import load_examples
from pipeline.thinking_budget import ThinkingLimits

# What scores.json says of the command.
ECHOED = ("model", "url", "prompt", "shots", "budget", "min_thinking")


@dataclass(frozen=True)
class ScoredModel:
    """A model to be scored, and the recipe that says how it is asked."""

    model: Any
    tokenizer: Any
    recipe: Recipe
    max_new_tokens: int


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``score`` command."""
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER|BASE", help="a stage's folder, or a base model")
    add("--benchmark", required=True, metavar="FILE|NAME", help="a data set, or a file of problems")
    add("--prompt", required=True, metavar="plain|cot|think|FILE.yaml", help="what it is asked with")
    add("--shots", type=at_least(0), default=0, metavar="N", help="worked examples before the question")
    add("--budget", type=at_least(0), metavar="N", help="the most tokens a thought may have")
    add("--min-thinking", type=at_least(0), default=0, metavar="N", help="the fewest tokens a thought may have")
    add("--samples", type=at_least(1), metavar="N", help="samples of each problem: pass@k and maj@N")
    text = f"of --samples (default: {SAMPLING_TEMPERATURE:g})"
    add("--temperature", type=float, metavar="T", help=text)
    add("--seed", type=int, metavar="N", help="of --samples (default: 0)")
    add("--limit", type=at_least(1), metavar="N", help="problems, stratified by level")
    add("--url", metavar="URL", help="where a server has the model (vLLM's /v1; docs/machines.md)")
    add("--out", required=True, type=Path, metavar="FOLDER", help="for completions, grades and scores")


def check_score_options(options: argparse.Namespace) -> None:
    """Raise UserError where options are out of range, or do not go together."""
    if options.samples is None:
        for name in ("temperature", "seed"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name}: the one greedy answer has none; add --samples, or leave it out")
    elif options.temperature is not None and not 0 < options.temperature < math.inf:
        raise UserError(f"--temperature is {options.temperature}; it must be above 0, or all samples are the same")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise UserError(f"--seed is {options.seed}; it must be 0 to {2**32 - 1}")
    if options.budget is not None and options.budget < options.min_thinking:
        raise UserError(f"--budget {options.budget}: it is below --min-thinking {options.min_thinking}; raise it")
    if options.url:
        from pipeline.client import check_url

        check_url(options.url)
    if options.url and (options.budget is not None or options.min_thinking):
        raise UserError("--url: a server knows no --budget and no --min-thinking; leave them out, or the server")


def score_model(options: argparse.Namespace) -> dict[str, Any]:
    """Ask a model a benchmark, grade and score it; write everything into ``options.out`` and return the scores."""
    check_score_options(options)
    seed = options.seed or 0
    temperature = options.temperature or SAMPLING_TEMPERATURE
    from pipeline.evaluate import evaluate, make_sample_seed

    prompt = read_prompt(options.prompt)
    benchmark = load_benchmark(options.benchmark)
    if options.limit:
        benchmark = replace(benchmark, problems=take_stratified(benchmark.problems, options.limit))
    problems = benchmark.problems

    # After all checks, since loading may take minutes, and decoding hours.
    make_folder(options.out)
    scored = load_scored_model(options)
    prompted = scored.recipe.stages["cot"].model_copy(update={"shots": [options.shots]})
    examples = load_examples(benchmark, prompted, "cot")
    refuse_shown(problems, examples)

    # An earlier command may have left more samples here, which its scores name.
    (options.out / "scores.json").unlink(missing_ok=True)
    for name in ("completions", "grades"):
        for folder in (options.out / name).glob("sample-*"):
            shutil.rmtree(folder)

    # Both in the order of the samples: scores of each, and grades for what they come to together.
    each = []
    samples = []
    for number in range(options.samples or 1):
        evaluation = evaluate(
            scored.model,
            scored.tokenizer,
            problems,
            prompt,
            examples=examples,
            max_new_tokens=scored.max_new_tokens,
            batch_size=scored.recipe.eval.batch_size,
            thinking=ThinkingLimits(options.min_thinking, options.budget),
            # One answer is the greedy one, as in the table.
            temperature=temperature if options.samples else 0.0,
            seed=make_sample_seed(seed, number),
            label=benchmark.name,
        )
        folder = f"sample-{number + 1}" if options.samples else ""
        file = Path(folder) / f"{benchmark.name}.jsonl"
        entry, grades = write_answers(options.out, file, problems, evaluation)
        each.append(entry)
        samples.append(grades)

    scores = {
        **{name: getattr(options, name) for name in ECHOED},
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "extraction_version": EXTRACTION_VERSION,
        "scores_version": SCORES_VERSION,
    }
    if options.samples:
        scores |= {"temperature": temperature, "seed": seed, "each": each}
        scores |= score_samples(problems, samples)
    else:
        scores |= each[0]

    write_json(options.out / "scores.json", scores)
    print_scores(scores)
    print(f"{options.out}: scores.json, and each answer and its grade in completions/ and grades/")
    return scores


def refuse_shown(problems: Sequence[Problem], examples: Sequence[Problem]) -> None:
    """Raise UserError where a problem is asked that stands among the examples, with its answer."""
    # With its choices: two may ask "Which is right?".
    shown = {format_question(example) for example in examples}
    for problem in problems:
        if format_question(problem) in shown:
            raise UserError(
                f"--shots: {problem.id} is asked, and it is one of the examples that are shown with their answers; "
                "score another split, or leave --shots out"
            )


def print_scores(scores: dict[str, Any]) -> None:
    """Print the accuracy, or that of several samples, each with its interval."""
    shares = {"accuracy": scores}
    if "each" in scores:
        shares = {f"pass@{k}": share for k, share in scores["pass_at"].items()}
        shares[f"maj@{len(scores['each'])}"] = scores["maj"]

    for name, share in shares.items():
        # Each is a mean over problems.
        accuracy, low, high = [100 * share[key] for key in ("accuracy", "ci_low", "ci_high")]
        print(f"{scores['benchmark']}: {name} {accuracy:.1f} % [{low:.1f}, {high:.1f}]")


def load_scored_model(options: argparse.Namespace) -> ScoredModel:
    """Load what ``options.model`` names: a stage of a run, asked as it was there, or a base, perhaps served at a URL.

    Raises:
        UserError: Where a stage's adapter is damaged, or a stage is to be served.
    """
    from pipeline.models.load import fingerprint, load_model, resolve

    stage = StageDir(Path(options.model))
    part = stage.read_part("training") or stage.read_part("scoring")
    base = part["base"] if part else options.model
    recipe = load_recipe(default_profile(), base=base)

    # A stage is asked as it was scored, whatever this machine would choose.
    load = part["inputs"]["load"] if part else recipe.base.load
    generation = part["inputs"]["generation"] if part else recipe.eval.generation

    if options.url:
        if part:
            raise UserError(f"--model {options.model}: a server has no stages; export it and serve that")
        from pipeline.client import ServedModel

        model = ServedModel(options.url, resolve(base))
        tokenizer = model.tokenizer
    else:
        # A prompted stage is the base alone.
        adapter = None
        folder = resolve(base)
        if stage.read_part("training"):
            stage.check_adapter(fingerprint(folder))
            adapter = stage.adapter
        model, tokenizer = load_model(folder, adapter, load=load)

    return ScoredModel(model, tokenizer, recipe, generation["max_new_tokens"])


def read_prompt(text: str) -> Prompt:
    """Return the prompt of a name, or of a YAML file with ``instruction`` and ``format``."""
    if text in INSTRUCTIONS:
        return text

    # Not Path.is_file, which raises where a name is too long.
    if not os.path.isfile(text):
        raise UserError(f"--prompt {text}: no such prompt or file; {suggest(text, INSTRUCTIONS)}")

    path = Path(text)
    content = read_yaml(path)
    # Without a format the worked examples could not be written.
    are_texts = all(isinstance(value, str) for value in content.values())
    if set(content) != {"instruction", "format"} or not are_texts:
        raise UserError(f"{path}: a prompt has the keys instruction and format, each with a text; write these two")
    if content["format"] not in INSTRUCTIONS:
        raise UserError(f"{path}: format is {content['format']!r}; {suggest(content['format'], INSTRUCTIONS)}")

    return CustomPrompt(content["instruction"], content["format"])
