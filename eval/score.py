r"""The numbers of one benchmark and variant, from completions and their grades.

    python -m eval.score --model FOLDER|BASE --benchmark FILE|NAME --prompt plain|cot|think \
        [--shots N] [--budget N] [--limit N] [--samples K [--temperature T] | --prompts N] --out FOLDER

runs the model on the benchmark (``python -m pipeline complete``, a process of its own: this package knows no model),
grades what it wrote and leaves OUT/completions/NAME.jsonl, OUT/grades/NAME.jsonl and OUT/scores.json, where NAME is the
benchmark's. One greedy completion a problem; with ``--samples`` K samples, in folders sample-1 and so on, for pass@k
and maj@K; with ``--prompts`` one under each of N wordings of the instruction, in folders prompt-1 and so on.
"""

import argparse
import math
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data.command import Parser, one_line_errors
from data.records import (
    VERDICTS,
    BadInput,
    Completion,
    Grade,
    Problem,
    read_completions,
    write_json,
    write_records,
)
from data.sets import Benchmark
from data.splits import take
from eval.compare import pass_at, wilson
from eval.extract import EXTRACTION_VERSION, thinks, value
from eval.grade import grade_all, read_benchmark

SCORES_VERSION = 3  # of what score() returns


def score(
    problems: Sequence[Problem], completions: Sequence[Completion], grades: Sequence[Grade], seconds: float
) -> dict[str, Any]:
    """Score one benchmark: shares in [0, 1], tokens as means over all completions, ``seconds`` passed through.

    ``thinking_rate`` is the share that thinks (:func:`eval.extract.thinks`): a text without tags does not, whatever its
    length, so read it beside ``tokens_mean`` (thought and answer). ``format_rate`` is the share of boxed answers,
    ``truncated_rate`` that of texts the token limit cut. Raises KeyError where a problem has no completion or grade.
    """
    by_id = {completion.id: completion for completion in completions}
    grade_of = {grade.id: grade for grade in grades}
    written = [by_id[problem.id] for problem in problems]
    graded = [grade_of[problem.id] for problem in problems]
    n, right = len(problems), sum(grade.correct for grade in graded)
    low, high = wilson(right, n)

    def groups(name_of: Callable[[Problem], str]) -> dict[str, dict[str, float]]:
        members: dict[str, list[bool]] = {}
        for problem, grade in zip(problems, graded, strict=True):
            members.setdefault(name_of(problem), []).append(grade.correct)
        return {name: {"n": len(hits), "accuracy": fmean(hits)} for name, hits in sorted(members.items())}

    verdicts = Counter(grade.verdict for grade in graded)
    return {
        "n": n,
        "accuracy": right / n,
        "ci_low": low,
        "ci_high": high,
        "tokens_mean": fmean(c.thinking_tokens + c.answer_tokens for c in written),
        "thinking_tokens_mean": fmean(c.thinking_tokens for c in written),
        "thinking_rate": fmean(thinks(c.text) for c in written),
        "format_rate": fmean(grade.boxed for grade in graded),
        "truncated_rate": fmean(c.finish == "length" for c in written),
        "seconds": seconds,
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        **baselines(problems),
        "by_level": groups(lambda problem: str(problem.level)),
        "by_family": groups(lambda problem: problem.family),
    }


def baselines(problems: Sequence[Problem]) -> dict[str, float]:
    """The accuracy of two ways to answer without reading the problem: ``chance`` picks one of the choices (nothing
    where there are none), ``majority`` gives each family's most common answer, as a text or as a choice's letter."""
    by_family: dict[str, Counter[Any]] = defaultdict(Counter)
    for problem in problems:
        gold = value(problem.answer, problem.kind, problem.choices)
        by_family[problem.family][gold] += 1
        for place, choice in enumerate(problem.choices or ()):
            by_family[problem.family]["letter", place] += value(choice, problem.kind, problem.choices) == gold
    return {
        "chance": fmean(1 / len(p.choices) if p.choices else 0.0 for p in problems),
        "majority": sum(max(answers.values()) for answers in by_family.values()) / len(problems),
    }


def sampled(problems: Sequence[Problem], samples: Sequence[Sequence[Grade]]) -> dict[str, Any]:
    """What several samples of every problem come to: ``pass_at`` some k up to their number, and ``maj``, the share
    where the most common answer is right (a tie counts for the share of right ones), each with its Wilson interval.

    pass@k: :func:`eval.compare.pass_at`; majority: X. Wang et al. 2022, arXiv 2203.11171. ``samples`` holds the grades
    of all problems, once a sample; an answer that cannot be read has no vote.
    """
    n, count = len(problems), len(samples)
    by_problem = list(zip(*samples, strict=True))

    def share(total: float) -> dict[str, float]:
        low, high = wilson(min(total, n), n)
        return {"accuracy": total / n, "ci_low": low, "ci_high": high}

    agreed = 0.0
    for problem, grades in zip(problems, by_problem, strict=True):
        votes: dict[Any, list[bool]] = defaultdict(list)
        for grade in grades:
            answer = None if grade.extracted is None else value(grade.extracted, problem.kind, problem.choices)
            if answer is not None and grade.verdict in ("correct", "wrong"):
                votes[answer].append(grade.correct)
        most = max(map(len, votes.values()), default=0)
        tied = [hits[0] for hits in votes.values() if len(hits) == most]
        agreed += fmean(tied) if tied else 0.0
    ks = sorted({2**i for i in range(count.bit_length()) if 2**i <= count} | {count})
    right = [sum(grade.correct for grade in grades) for grades in by_problem]
    return {
        "pass_at": {str(k): share(sum(pass_at(k, count, hits) for hits in right)) for k in ks},
        "maj": share(agreed),
    }


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 on bad input, or that of the model's process where not 0."""
    parser = Parser(prog="python -m eval.score", description="Score one model on one benchmark.")
    parser.add_argument("--model", required=True, metavar="FOLDER|BASE", help="a stage's folder, or a base model")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME", help="see data/sets.py")
    parser.add_argument("--prompt", required=True, choices=("plain", "cot", "think"))
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="worked examples before the question")
    parser.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    parser.add_argument("--min-thinking", type=int, default=0, metavar="N", help="the fewest it may end with")
    parser.add_argument("--limit", type=int, metavar="N", help="problems, stratified by level")
    parser.add_argument("--server", metavar="URL", help="where a server has --model (vLLM's /v1; docs/machines.md)")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--samples", type=int, metavar="K", help="K samples a problem: pass@k and maj@K")
    several.add_argument("--prompts", type=int, metavar="N", help="N wordings of the instruction: how far they spread")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of --samples (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="of --samples")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    status, benchmark, completed, seconds = _complete(options)
    if status != 0:
        return status
    problems = benchmark.problems
    completions = [read_completions(path) for path in completed]
    grades = [grade_all(problems, one) for one in completions]
    results = []
    for path, written, graded in zip(completed, completions, grades, strict=True):
        inside = path.relative_to(options.out / "completions")
        write_records(options.out / "grades" / inside, graded)
        files = {"completions": f"completions/{inside}", "grades": f"grades/{inside}"}
        results.append(files | score(problems, written, graded, seconds / len(completed)))
    about = {
        "model": options.model,
        "server": options.server,
        "prompt": options.prompt,
        "shots": options.shots,
        "budget": options.budget,
        "min_thinking": options.min_thinking,
        "benchmark": benchmark.name,
        "benchmark_sha256": benchmark.sha256,
        "extraction": EXTRACTION_VERSION,
    }
    if options.samples:
        about |= {"temperature": options.temperature, "seed": options.seed} | sampled(problems, grades)
        found = [f"pass@{k} {_percent(share)}" for k, share in about["pass_at"].items()]
        print(f"{benchmark.name}, {options.samples} samples at temperature {options.temperature}, n = {len(problems)}:")
        print("\n".join(f"  {line}" for line in [*found, f"maj@{options.samples} {_percent(about['maj'])}"]))
    elif options.prompts:
        accuracies = [result["accuracy"] for result in results]
        about |= {"mean": fmean(accuracies), "lowest": min(accuracies), "highest": max(accuracies)}
        print(f"{benchmark.name}, {options.prompts} wordings of the instruction, n = {len(problems)}:")
        print("\n".join(f"  {i} {_percent(result)}" for i, result in enumerate(results, 1)))
        print(f"  mean {100 * about['mean']:.1f}, from {100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}")
    else:
        [result] = results
        print(
            f"{benchmark.name}: {_percent(result)} of {result['n']}, {result['tokens_mean']:.1f} tokens, "
            f"boxed {100 * result['format_rate']:.0f} %, cut {100 * result['truncated_rate']:.0f} %"
        )
    write_json(options.out / "scores.json", about | (results[0] if len(results) == 1 else {"each": results}))
    return 0


def _complete(options: argparse.Namespace) -> tuple[int, Benchmark, list[Path], float]:
    """Have the model complete the benchmark: (exit status, benchmark, files of completions, seconds)."""
    for key in ("samples", "prompts", "limit"):
        if getattr(options, key) is not None and getattr(options, key) < 1:
            raise BadInput(f"--{key} is {getattr(options, key)}; it must be 1 or more")
    if options.samples and not 0 < options.temperature < math.inf:
        raise BadInput(f"--temperature is {options.temperature}; it must be above 0, or all samples are the same")
    benchmark = read_benchmark(options.benchmark)
    if options.limit:
        benchmark = replace(benchmark, problems=take(benchmark.problems, options.limit))
    kind, count = ("sample", options.samples) if options.samples else ("prompt", options.prompts)
    inside = [f"{kind}-{i}" for i in range(1, count + 1)] if count else [""]
    completed = [options.out / "completions" / folder / f"{benchmark.name}.jsonl" for folder in inside]
    command = [sys.executable, "-m", "pipeline", "complete", "--model", options.model]
    command += ["--benchmark", options.benchmark, "--prompt", options.prompt, "--shots", str(options.shots)]
    for key in ("budget", "min_thinking", "limit", "server"):
        if getattr(options, key) is not None:
            command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
    if options.samples:
        command += ["--temperature", str(options.temperature), "--seed", str(options.seed)]
    start = time.monotonic()
    status = subprocess.run([*command, "--out", *map(str, completed)], check=False).returncode
    return max(status, -status), benchmark, completed, time.monotonic() - start


def _percent(share: dict[str, Any]) -> str:
    return f"{100 * share['accuracy']:.1f} % [{100 * share['ci_low']:.1f}, {100 * share['ci_high']:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
