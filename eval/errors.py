"""What went wrong in a wrong answer, and which right answers were reached through a wrong step.

    python -m eval.errors --benchmark FILE|NAME --completions FILE [--completions FILE ...] [--examples N]

counts the kinds of error in each file of completions and shows N texts of each kind. It grades anew, without a model.
A step is an equation of numbers or of True and False, which is worked out again here (never evaluated as code), a
sentence of a rule problem, which must stand in the question or follow from the sentences before it, or an order, which
no premise may contradict. Where the text does not settle it the kind is "unknown".

====================  =================================================================================================
slip                  a step whose result is wrong
plan                  every step is right and the last one is the answer given: the wrong operation or quantity
unfounded             a step of logic that neither stands in the question nor follows from it
contradiction         the answer given is not the result of the last step
format                the right result, but no answer that can be extracted
guess                 an answer without a step
loop                  the token limit cut a text that repeats itself
truncated, unclosed   as graded: cut by the token limit, or a thought without an end
no attempt            neither a step nor an answer
unknown               none of these for sure
====================  =================================================================================================
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from data.command import Parser, one_line_errors
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
        # One space at most, or a sum that never comes would be looked for from each of many.
        for match in _SUM.finditer(re.sub(r"\s+", " ", line.replace(",", "").replace("$", ""))):
            found.append((match[0], match[2], _work_out(match[1]) == Fraction(match[2])))
    return found


def wrong_step(problem: Problem, text: str) -> str | None:
    """The first step of a completion that is wrong: an equation by recomputing it, a sentence of logic by the
    question; None where every step that can be checked is right."""
    slip = next((step for step, _, right in steps(text) if not right), None)
    return slip or unfounded_step(problem, split_thought(text)[0] or text)


_FACT = re.compile(r"(\w+) is an? (\w+)")
_RULE = re.compile(r"(All|Every|No) (\w+) (?:is|are) (?:an? )?(\w+)")
_CONCLUSION = re.compile(r"So (\w+) is (not )?(?:an? )?(\w+)")
_ORDER = re.compile(r"(\w+)est to \w+est: (\w+(?: > \w+)+)")
_COMPARISON = re.compile(r"(\w+) is (\w+)er than (\w+)")


def unfounded_step(problem: Problem, thought: str) -> str | None:
    """The first line of a rule or ordering problem's thought that the question does not bear out."""
    lines = [line.strip() for line in thought.split("\n") if line.strip()]
    if problem.family == "rules":
        return _off_the_chain(problem.question, lines)
    if problem.family == "ordering":
        return next((line for line in lines if _contradicts(problem.question, line)), None)
    return None


def _off_the_chain(question: str, lines: Sequence[str]) -> str | None:
    """The first sentence that is not said in the question, or does not go on from the class reached before it; what
    comes before any "X is a Y" reaches nothing yet."""
    given = {normalise(sentence) for sentence in re.split(r"(?<=[.?])\s+", question)}
    reached, negated = "", False
    for line in lines:
        sentence = line.rstrip(".")
        if conclusion := _CONCLUSION.fullmatch(sentence):
            if reached and (_singular(conclusion[3]), bool(conclusion[2])) != (reached, negated):
                return line
        elif rule := _RULE.fullmatch(sentence):
            if normalise(line) not in given or reached and (negated or _singular(rule[2]) != reached):
                return line
            reached, negated = reached and _singular(rule[3]), rule[1] == "No"
        elif fact := _FACT.fullmatch(sentence):
            if normalise(line) not in given:
                return line
            reached, negated = _singular(fact[2]), False
    return None


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def _contradicts(question: str, line: str) -> bool:
    """Whether a line gives an order, from the most of something, that a premise contradicts or that misses a name."""
    order = _ORDER.fullmatch(line)
    if order is None:
        return False
    names = order[2].split(" > ")
    for left, comparative, right in _COMPARISON.findall(question.split("?")[0].rpartition(".")[0]):
        if not {left, right} <= set(names) or (names.index(left) < names.index(right)) != (
            comparative == order[1].lower()
        ):
            return True
    return False


def _implied(problem: Problem, thought: str) -> str | None:
    """The answer that the conclusion of a rule problem's thought comes to: yes where it is what was asked."""
    asked = re.search(r"(not )?(?:an? )?\w+\?$", problem.question)
    conclusions = [m for line in thought.split("\n") if (m := _CONCLUSION.fullmatch(line.strip().rstrip(".")))]
    if problem.family != "rules" or not asked or not conclusions:
        return None
    return "yes" if bool(conclusions[-1][2]) == bool(asked[1]) else "no"


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
    if unfounded_step(problem, thought or ""):
        return "unfounded"
    implied = _implied(problem, thought or "")
    if implied and grade.extracted and not equal(implied, grade.extracted, problem.kind, problem.choices):
        return "contradiction"
    return "unknown"


def tabulate(columns: dict[str, list[tuple[Problem, Completion, Grade]]]) -> str:
    """The kinds of error as an aligned table, one column a file, percent of all its problems."""
    counts = {name: Counter(kind_of(*graded) for graded in rows) for name, rows in columns.items()}
    lucky = {
        name: sum(g.correct and wrong_step(p, c.text) is not None for p, c, g in rows) for name, rows in columns.items()
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


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser(prog="python -m eval.errors", description="Tell the errors of completions apart.")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME")
    parser.add_argument("--completions", required=True, type=Path, metavar="FILE", action="extend", nargs="+")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="texts to show of each kind, a file")
    options = parser.parse_args(arguments)
    by_id = {problem.id: problem for problem in read_benchmark(options.benchmark).problems}
    columns = {}
    names = [_name(path) for path in options.completions]
    for path, name in zip(options.completions, names, strict=True):
        completions = read_completions(path)
        unknown = next((c.id for c in completions if c.id not in by_id), None)
        if unknown is not None:
            raise BadInput(f"{path}: {unknown!r} is no problem of {options.benchmark}; give the file it was made from")
        problems = [by_id[c.id] for c in completions]
        column = name if names.count(name) == 1 else str(path)
        columns[column] = list(zip(problems, completions, grade_all(problems, completions), strict=True))
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
