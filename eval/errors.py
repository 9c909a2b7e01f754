"""What went wrong in a wrong answer, and which correct answers were reached through a wrong step.

    python -m eval.errors --benchmark FILE|NAME --completions FILE [FILE ...] [--examples N]

counts the kinds of error in each file of completions, and by family and level the operation that goes wrong first, and
shows N texts of each kind. It grades anew, without a model; eval/steps.py checks the steps.
Where the text does not settle it the kind is "unknown".

====================  =================================================================================================
slip                  a step whose result is wrong
plan                  every step is right and the last one is the answer: the wrong operation or quantity
unfounded             a step that neither stands in the question nor follows from the steps before it
contradiction         the answer is not the result of the last step
format                the correct result, but no answer that can be extracted
guess                 an answer without a step
loop                  the token limit truncated a text that repeats itself
truncated, unclosed   as graded: truncated by the token limit, or a thought without an end
no attempt            neither a step nor an answer
unknown               none of these for sure
====================  =================================================================================================
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.command_line import ArgumentParser, at_least, exit_on_user_error
from data.files import UserError
from data.problem import Completion, Grade, Problem, read_completions
from data.solutions import read_program
from eval.extract import split_thought
from eval.grade import grade_all, is_equal, load_benchmark
from eval.steps import Step, find_steps, find_wrong_step, get_solution, is_checked

KINDS = (
    "slip",
    "plan",
    "unfounded",
    "contradiction",
    "format",
    "guess",
    "loop",
    "truncated",
    "unclosed",
    "no attempt",
    "unknown",
)
LOOP_REPEATS = 4  # of one line, from which a truncated text is a loop
GUESS_WORDS = 5  # the most words of an answer without a step


@dataclass(frozen=True)
class GradedCompletion:
    """A problem, what a model wrote for it, and its grade."""

    problem: Problem
    completion: Completion
    grade: Grade

    @property
    def kind(self) -> str | None:
        """The kind of error; None where the answer is correct."""
        completion, grade = self.completion, self.grade
        if grade.correct:
            return None
        if _is_loop(completion):
            return "loop"
        if grade.verdict in ("truncated", "unclosed"):
            return grade.verdict
        return _judge_text(self.problem, completion.text, grade)

    @property
    def is_lucky(self) -> bool:
        """Whether a correct answer was reached through a wrong step."""
        return self.grade.correct and find_wrong_step(self.problem, self.completion.text) is not None


def _judge_text(problem: Problem, text: str, grade: Grade) -> str:
    """Return the kind of a wrong answer, or of none, after a thought that ended."""
    thought, rest, _ = split_thought(text)
    steps = find_steps(get_solution(text))

    # A wrong step comes first: whatever follows it is wrong for that reason.
    if any(not step.correct for step in steps):
        return "slip"
    if find_wrong_step(problem, text):
        return "unfounded"

    has_thought = thought is not None and bool(thought.strip())
    if grade.verdict == "no_answer" and not steps:
        return "unknown" if has_thought else "no attempt"
    if grade.verdict == "no_answer":
        is_solved = is_equal(problem.answer, steps[-1].result, problem.kind, problem.choices)
        return "format" if is_solved else "unknown"

    if steps:
        return _judge_steps(problem, steps, grade)
    # More words may be steps that nothing here can check.
    if not has_thought:
        return "guess" if len(rest.split()) <= GUESS_WORDS else "unknown"
    return "contradiction" if is_checked(problem, text) else "unknown"


def _is_loop(completion: Completion) -> bool:
    lines = [line.strip() for line in completion.text.split("\n")]
    counts = Counter(line for line in lines if line)
    repeats = max(counts.values(), default=0)
    return completion.finish == "length" and repeats >= LOOP_REPEATS


def _judge_steps(problem: Problem, steps: Sequence[Step], grade: Grade) -> str:
    """Return the kind of a wrong answer after correct equations."""
    if grade.extracted is None:
        return "unknown"
    if not is_equal(steps[-1].result, grade.extracted, problem.kind, problem.choices):
        return "contradiction"

    # A second guess stood beside it.
    if is_equal(problem.answer, grade.extracted, problem.kind, problem.choices):
        return "unknown"

    # Only with a known program, or one expression to follow, do correct steps prove a wrong plan.
    if read_program(problem) or problem.family == "boolean":
        return "plan"
    return "unknown"


def format_kinds(columns: Mapping[str, Sequence[GradedCompletion]]) -> str:
    """Return the kinds of error as an aligned table, a column for each file, in percent of all its problems."""
    counts = []
    for graded in columns.values():
        count = Counter(item.kind or "correct" for item in graded)
        count["n"] = len(graded)
        # A part of the correct ones.
        count["  through a wrong step"] = sum(item.is_lucky for item in graded)
        counts.append(count)

    # The first cell of each line is its label.
    sizes = [str(count["n"]) for count in counts]
    lines = [["", *columns], ["n", *sizes]]
    for label in ("correct", "  through a wrong step", *KINDS):
        if any(count[label] for count in counts):
            percents = [f"{100 * count[label] / count['n']:.1f}" for count in counts]
            lines.append([label, *percents])

    return _align(lines)


def _align(lines: Sequence[Sequence[str]]) -> str:
    # Labels on the left, figures on the right of their columns.
    first_width, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for label, *cells in lines:
        padded = map(str.rjust, cells, widths)
        text += "  ".join([label.ljust(first_width), *padded]) + "\n"
    return text


def format_wrong_steps(graded: Sequence[GradedCompletion]) -> str:
    """Return by family and level how often each operation is the first wrong step, in percent of the problems."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in graded:
        problem = item.problem
        # A user's problems may have neither.
        group = f"{problem.family or 'problems'} {problem.level or ''}".strip()
        count = counts[group]
        count["n"] += 1
        count["correct"] += item.grade.correct

        wrong = find_wrong_step(problem, item.completion.text)
        if wrong:
            count[wrong.operation] += 1

    names = set().union(*counts.values()) - {"n", "correct"}
    headings = ["correct", *sorted(names)]
    lines = [["first wrong step", "n", *headings]]
    for group in sorted(counts):
        count = counts[group]
        cells = [f"{100 * count[name] / count['n']:.1f}" if count[name] else "" for name in headings]
        lines.append([group, str(count["n"]), *cells])
    return _align(lines)


def grade_file(path: Path, problems: Mapping[str, Problem]) -> list[GradedCompletion]:
    """Grade a file of completions, which may answer a part of the problems only."""
    completions = read_completions(path)
    for completion in completions:
        if completion.id not in problems:
            raise UserError(f"{path}: {completion.id!r} is no problem of the benchmark; give the one it was made from")

    # A part of the problems is enough: a limit may have been set.
    answered = [problems[completion.id] for completion in completions]
    grades = grade_all(answered, completions)
    return list(map(GradedCompletion, answered, completions, grades))


def print_examples(name: str, graded: Sequence[GradedCompletion], count: int) -> None:
    """Print the first ``count`` texts of each kind of error."""
    printed: Counter[str] = Counter()
    for item in graded:
        kind = item.kind
        if kind is None or printed[kind] >= count:
            continue

        printed[kind] += 1
        text = f"\n{name}, {kind}: {item.problem.question}\n{item.completion.text!r}\ncorrect: {item.problem.answer}"
        # Half a character, which JSON can hold, cannot be printed.
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _column_name(path: Path) -> str:
    """Return the stage (and variant) of runs/BASE/STAGE/completions/[VARIANT/]NAME.jsonl; any other path as it is."""
    *folders, _ = path.parts
    if "completions" not in folders[1:]:
        return str(path)
    # The last folder of that name: the project may lie in another.
    place = len(folders) - 1 - folders[::-1].index("completions")
    stage = folders[place - 1]
    variant = folders[place + 1 :]
    return " ".join([stage, *variant])


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = ArgumentParser(prog="python -m eval.errors", description="Count the kinds of error in completions.")
    add = parser.add_argument
    add("--benchmark", required=True, metavar="FILE|NAME", help="the problems")
    add(
        "--completions",
        required=True,
        type=Path,
        metavar="FILE",
        action="extend",
        nargs="+",
        help="what models wrote; a column for each file",
    )
    add(
        "--examples",
        type=at_least(0),
        default=0,
        metavar="N",
        help="texts to show of each kind of error, for each file",
    )
    options = parser.parse_args(arguments)

    problems = {problem.id: problem for problem in load_benchmark(options.benchmark).problems}
    names = [_column_name(path) for path in options.completions]
    columns = {}
    for path, name in zip(options.completions, names, strict=True):
        # Two files of one stage come from two runs: only the path tells them apart.
        column = name if names.count(name) == 1 else str(path)
        columns[column] = grade_file(path, problems)

    # The tables first, then the texts, which may be long.
    print(format_kinds(columns), end="")
    for name, graded in columns.items():
        print(f"\n{name}\n{format_wrong_steps(graded)}", end="")
    for name, graded in columns.items():
        print_examples(name, graded, options.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
