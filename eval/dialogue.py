"""Whether a stage can correct itself: one turn of feedback after its answer, and what comes of it.

    python -m eval.dialogue --run runs/BASE [--benchmark FILE|NAME ...] [--limit N]

Every wrong answer gets two kinds of feedback, each in a dialogue of its own: *bare*, that it is not right, and *hint*,
which names the first wrong step where checking the steps finds one (:mod:`eval.errors`). Every right answer gets the
bare one as well: what it breaks is the price of asking. A prompted stage is asked with its best variant. The second
answers and their grades are left in runs/BASE/dialogue. That models often break more by themselves than they mend:
J. Huang et al. 2023, arXiv 2310.01798.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.command import Parser, one_line_errors
from data.records import (
    BadInput,
    Completion,
    Problem,
    read_completions,
    read_grades,
    write_json,
    write_records,
    write_text,
)
from data.splits import BENCHMARKS
from eval.compare import wilson
from eval.errors import wrong_step
from eval.grade import grade, read_benchmark
from eval.table import STAGES, best_variant

BARE = "That is not right. Check your steps and answer again."
HINT = "That is not right: the step {step} is wrong. Work from there and answer again."


def feedback(problem: Problem, completion: Completion, correct: bool) -> dict[str, str]:
    """What is said to an answer, by kind of feedback; the hint only to a wrong one with a step that is wrong."""
    step = None if correct else wrong_step(problem, completion.text)
    return {"bare": BARE} | ({"hint": HINT.format(step=step)} if step else {})


def second_answers(
    model: Path, variant: dict[str, Any], benchmark: str, said: dict[str, tuple[str, str]], out: Path
) -> list[Completion]:
    """What the model answers after feedback (id -> first answer, feedback), written to ``out``."""
    turns = out.with_suffix(".turns.jsonl")
    rows = [{"id": i, "text": text, "feedback": words} for i, (text, words) in said.items()]
    write_text(turns, "".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "pipeline", "complete", "--model", str(model), "--benchmark", benchmark]
    command += ["--prompt", variant["prompt"], "--shots", str(variant["shots"]), "--after", str(turns)]
    if status := subprocess.run([*command, "--out", str(out)], check=False).returncode:
        sys.exit(max(status, -status))  # and it has said why
    return read_completions(out)


def dialogue(run_dir: Path, stage: str, spec: str, limit: int | None) -> list[dict[str, Any]]:
    """The rows of one stage and benchmark: for each kind of feedback how many wrong answers it mended, and of the bare
    one how many right answers it broke."""
    benchmark = read_benchmark(spec)
    variant = best_variant(run_dir, stage, benchmark.name)
    if variant is None:
        return []
    problems = {problem.id: problem for problem in benchmark.problems}
    first = [c for c in read_completions(run_dir / stage / variant["completions"]) if c.id in problems][:limit]
    right = {g.id: g.correct for g in read_grades(run_dir / stage / variant["grades"])}
    rows: list[dict[str, Any]] = []
    for kind in ("bare", "hint"):
        said = {
            c.id: (c.text, words[kind]) for c in first if kind in (words := feedback(problems[c.id], c, right[c.id]))
        }
        if not said:
            continue
        out = run_dir / "dialogue" / stage / kind / f"{benchmark.name}.jsonl"
        answers = second_answers(run_dir / stage, variant, spec, said, out)
        grades = [grade(problems[answer.id], answer) for answer in answers]
        write_records(out.with_suffix(".grades.jsonl"), grades)
        for outcome, was_right in (("recovered", False), ("broken", True)):
            then = [g for g in grades if right[g.id] is was_right]
            if then:
                rows.append(
                    {"benchmark": benchmark.name, "stage": stage, "variant": variant["variant"], "feedback": kind}
                    | {"outcome": outcome, "n": len(then), "count": sum(g.correct is not was_right for g in then)}
                )
    return rows


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that an earlier call left, none where there was none."""
    try:
        return [row for row in json.loads(file.read_text(encoding="utf-8")) if row["benchmark"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file}: not what this command writes; delete it") from None


def lines(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text, shares in percent with their Wilson interval."""
    cells = [["benchmark", "stage", "variant", "feedback", "outcome", "of", "share"]]
    for row in rows:
        low, high = wilson(row["count"], row["n"])
        share = f"{100 * row['count'] / row['n']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        named = [row[key] for key in ("benchmark", "stage", "variant", "feedback", "outcome")]
        cells.append([*named, str(row["n"]), share])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in cells)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="python -m eval.dialogue", description="One turn of feedback to every answer.")
    parser.add_argument("--run", required=True, type=Path, metavar="runs/BASE")
    parser.add_argument("--benchmark", action="append", metavar="FILE|NAME", help="repeatable (default: ours)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N answers of each benchmark")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        raise BadInput(f"--limit is {options.limit}; it must be 1 or more")
    file = options.run / "dialogue" / "dialogue.json"
    before = read_rows(file)
    rows = [
        row
        for spec in options.benchmark or BENCHMARKS
        for stage in STAGES
        for row in dialogue(options.run, stage, spec, options.limit)
    ]
    if not rows:
        raise BadInput(f"{options.run}: no stage was scored on these benchmarks; run `make` first")
    asked = {row["benchmark"] for row in rows}
    write_json(file, [row for row in before if row["benchmark"] not in asked] + rows)
    print(lines(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
