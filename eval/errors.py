"""What went wrong in a wrong answer, and which right answers were reached through a wrong step.

    python -m eval.errors --benchmark FILE|NAME --completions FILE [--completions FILE ...] [--examples N]

counts the kinds of error in each file of completions and shows N texts of each kind. It grades anew, without a model.
A step is an equation of numbers or of True and False, which is worked out again here (never evaluated as code), or a
sentence of a rule problem, which must stand in the question. Where the text does not settle it the kind is "unknown".

====================  =================================================================================================
slip                  a step whose result is wrong
plan                  every step is right and the last one is the answer given: the wrong operation or quantity
unfounded             a premise that the question does not hold
contradiction         the answer given is not the result of the last step
format                the right result, but no answer that can be extracted
guess                 an answer without a step
loop                  the token limit cut a text that repeats itself
truncated, unclosed   as graded: cut by the token limit, or a thought without an end
no attempt            neither a step nor an answer
unknown               none of these for sure
====================  =================================================================================================
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from data.records import BadInput, Completion, Grade, Problem, read_completions
from data.splits import normalise
from eval.extract import split_thought
from eval.grade import equal, grade_all, read_benchmark

KINDS = ["slip", "plan", "unfounded", "contradiction", "format", "guess", "loop", "truncated", "unclosed"]
KINDS += ["no attempt", "unknown"]
REPEATS = 4  # of one line, from which a cut text is a loop

_NUMBER = r"\d{1,15}(?:\.\d{1,6})?"
# Nothing before it that would belong to it: more digits, an operation, a bracket.
_SUM = re.compile(
    rf"(?<![\d.(])(?<![-+*/×÷]\s)(?<![-+*/×÷])({_NUMBER}(?:\s*[-+*/×÷]\s*{_NUMBER})+)"
    rf"\s*=\s*(-?{_NUMBER})(?![\d.]*\d|\s*[-+*/×÷]\s*\d)"
)
_TRUTH = re.compile(r"^(?:(not)\s+)?(True|False)(?:\s+(and|or)\s+(True|False))?\s*=\s*(True|False)$")


def _work_out(expression: str) -> Fraction | None:
    """The value of numbers joined by operations, * and / first; None where it divides by nought."""
    tokens = re.findall(rf"{_NUMBER}|[-+*/×÷]", expression)
    total, term, sign = Fraction(0), Fraction(tokens[0]), 1
    for op, text in zip(tokens[1::2], tokens[2::2], strict=True):
        operand = Fraction(text)
        if op in "*×":
            term *= operand
        elif op in "/÷":
            if operand == 0:
                return None
            term /= operand
        else:
            total, term, sign = total + sign * term, operand, 1 if op == "+" else -1
    return total + sign * term


def steps(text: str) -> list[tuple[str, str, bool]]:
    """(step, its result, whether that is right) for every equation of a text, in order."""
    found = []
    for line in text.split("\n"):
        if truth := _TRUTH.match(line.strip()):
            negated, left, op, right, result = truth.groups()
            value = (left == "True") != bool(negated)
            if op:
                value = (value and right == "True") if op == "and" else (value or right == "True")
            found.append((truth[0], result, str(value) == result))
        for match in _SUM.finditer(line.replace(",", "").replace("$", "")):
            found.append((match[0], match[2], _work_out(match[1]) == Fraction(match[2])))
    return found


def wrong_step(text: str) -> str | None:
    """The first step of a text whose result is wrong."""
    return next((step for step, _, right in steps(text) if not right), None)


def _unfounded(problem: Problem, thought: str) -> bool:
    """Whether a line of a rule problem's thought, its conclusions apart, is not said in the question."""
    given = {normalise(sentence) for sentence in re.split(r"(?<=[.?])\s+", problem.question)}
    lines = [line.strip() for line in thought.split("\n") if line.strip() and not line.strip().startswith("So ")]
    return any(normalise(line) not in given for line in lines)


def kind_of(problem: Problem, completion: Completion, grade: Grade) -> str | None:
    """The kind of error of a completion; None where its answer is right."""
    if grade.correct:
        return None
    lines = Counter(line.strip() for line in completion.text.split("\n") if line.strip())
    if completion.finish == "length" and lines and max(lines.values()) >= REPEATS:
        return "loop"
    if grade.verdict in ("truncated", "unclosed"):
        return grade.verdict
    thought, answer, _ = split_thought(completion.text)
    worked = completion.text if thought is None else thought
    equations = steps(worked)
    if any(not right for *_, right in equations):
        return "slip"
    if grade.verdict == "no_answer":
        if equations and equal(problem.answer, equations[-1][1], problem.kind, problem.choices):
            return "format"
        return "unknown" if equations or (thought or "").strip() else "no attempt"
    if equations:
        if grade.extracted is None or not equal(equations[-1][1], grade.extracted, problem.kind, problem.choices):
            return "contradiction" if grade.extracted is not None else "unknown"
        return "plan" if problem.extra.get("program") or problem.family == "boolean" else "unknown"
    if not (thought or "").strip():
        return "guess" if len(answer.split()) <= 5 else "unknown"
    if problem.family == "rules" and _unfounded(problem, thought or ""):
        return "unfounded"
    return "unknown"


def tabulate(columns: dict[str, list[tuple[Problem, Completion, Grade]]]) -> str:
    """The kinds of error as an aligned table, one column a file, percent of all its problems."""
    counts = {name: Counter(kind_of(*graded) for graded in rows) for name, rows in columns.items()}
    lucky = {
        name: sum(g.correct and wrong_step(c.text) is not None for _, c, g in rows) for name, rows in columns.items()
    }
    lines = [["", *columns], ["n", *(str(len(rows)) for rows in columns.values())]]
    cells: dict[str, dict[str, int]] = {"right": {name: counts[name][None] for name in columns}}
    cells["  through a wrong step"] = lucky
    cells |= {kind: {name: counts[name][kind] for name in columns} for kind in KINDS}
    for label, found in cells.items():
        if any(found.values()):
            lines.append([label, *(f"{100 * found[name] / len(columns[name]):.1f}" for name in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + "\n"
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.errors", description="Tell the errors of completions apart.")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME")
    parser.add_argument("--completions", required=True, type=Path, metavar="FILE", action="extend", nargs="+")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="texts to show of each kind, a file")
    options = parser.parse_args(arguments)
    try:
        by_id = {problem.id: problem for problem in read_benchmark(options.benchmark).problems}
        columns = {}
        for path in options.completions:
            completions = read_completions(path)
            unknown = next((c.id for c in completions if c.id not in by_id), None)
            if unknown is not None:
                raise BadInput(
                    f"{path}: {unknown!r} is no problem of {options.benchmark}; give the file it was made from"
                )
            problems = [by_id[c.id] for c in completions]
            columns[_name(path)] = list(zip(problems, completions, grade_all(problems, completions), strict=True))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tabulate(columns), end="")
    for name, rows in columns.items():
        shown: dict[str, int] = defaultdict(int)
        for problem, completion, grade in rows:
            kind = kind_of(problem, completion, grade)
            if kind is not None and shown[kind] < options.examples:
                shown[kind] += 1
                print(f"\n{name}, {kind}: {problem.question}\n{completion.text!r}\nright: {problem.answer}")
    return 0


def _name(path: Path) -> str:
    """The stage (and variant) of runs/BASE/STAGE/completions/[VARIANT/]NAME.jsonl; any other path as it is."""
    parts = path.parts
    if "completions" not in parts[1:-1]:
        return str(path)
    place = len(parts) - 1 - parts[::-1].index("completions")
    return " ".join([parts[place - 1], *parts[place + 1 : -1]])


if __name__ == "__main__":
    sys.exit(main())
