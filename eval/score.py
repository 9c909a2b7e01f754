r"""The numbers of one benchmark and variant, from completions and their grades.

    python -m eval.score --model FOLDER|BASE --benchmark FILE --prompt plain|cot|think \
        [--shots N] [--budget N] --out FOLDER

runs the model on the benchmark (``python -m pipeline complete``, a process of its own: this package knows no model),
grades what it wrote and leaves OUT/completions/NAME.jsonl, OUT/grades/NAME.jsonl and OUT/scores.json, where NAME is the
name of the benchmark file without its ending.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from data.records import (
    VERDICTS,
    BadInput,
    Completion,
    Grade,
    Problem,
    read_completions,
    read_problems,
    sha256_of,
    write_json,
    write_records,
)
from eval.compare import wilson
from eval.extract import split_thought
from eval.grade import check_gold, grade_all


def score(
    problems: Sequence[Problem], completions: Sequence[Completion], grades: Sequence[Grade], seconds: float
) -> dict[str, Any]:
    """Score one benchmark: shares in [0, 1], tokens as means over all completions, ``seconds`` passed through.

    ``thinking_rate`` is the share with a thought that is not blank: a text without tags does not think, whatever its
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
        "thinking_rate": fmean(bool((split_thought(c.text)[0] or "").strip()) for c in written),
        "format_rate": fmean(grade.boxed for grade in graded),
        "truncated_rate": fmean(c.finish == "length" for c in written),
        "seconds": seconds,
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        "by_level": groups(lambda problem: str(problem.level)),
        "by_family": groups(lambda problem: problem.family),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 on bad input, or that of the model's process where not 0."""
    parser = argparse.ArgumentParser(prog="python -m eval.score", description="Score one model on one benchmark.")
    parser.add_argument("--model", required=True, metavar="FOLDER|BASE", help="a stage's folder, or a base model")
    parser.add_argument("--benchmark", required=True, type=Path, metavar="FILE")
    parser.add_argument("--prompt", required=True, choices=("plain", "cot", "think"))
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="worked examples before the question")
    parser.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    name = f"{options.benchmark.stem}.jsonl"
    completed = options.out / "completions" / name
    try:
        problems = read_problems(options.benchmark)
        for problem in problems:
            check_gold(problem)
        command = [sys.executable, "-m", "pipeline", "complete", "--model", options.model]
        command += ["--benchmark", str(options.benchmark), "--prompt", options.prompt, "--shots", str(options.shots)]
        if options.budget is not None:
            command += ["--budget", str(options.budget)]
        start = time.monotonic()
        status = subprocess.run([*command, "--out", str(completed)], check=False).returncode
        seconds = time.monotonic() - start
        if status != 0:
            return status if status > 0 else 1
        completions = read_completions(completed)
        grades = grade_all(problems, completions)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_records(options.out / "grades" / name, grades)
    result = score(problems, completions, grades, seconds)
    about = {
        "model": options.model,
        "prompt": options.prompt,
        "shots": options.shots,
        "budget": options.budget,
        "benchmark": options.benchmark.stem,
        "benchmark_sha256": sha256_of(options.benchmark),
        "completions": f"completions/{name}",
        "grades": f"grades/{name}",
    }
    write_json(options.out / "scores.json", about | result)
    print(
        f"{options.benchmark.stem}: {100 * result['accuracy']:.1f} % of {result['n']} "
        f"[{100 * result['ci_low']:.1f}, {100 * result['ci_high']:.1f}], {result['tokens_mean']:.1f} tokens, "
        f"boxed {100 * result['format_rate']:.0f} %, cut {100 * result['truncated_rate']:.0f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
