r"""Grade completions on disk: one extracted answer, one verdict, 0 or 1.

    python -m eval.grade --benchmark FILE|NAME --completions FILE --out FILE

The reward in training calls the same :func:`grade`. It needs no model, evaluates nothing a model wrote, and its work
is bounded by counting, never by a clock. Verdicts: ``correct``; ``wrong`` (also several guesses); ``no_answer`` (none
there, or none that can be read whole as the kind asked for); ``undecided`` (a formula beyond the bounds on the work);
``unclosed`` (the model stopped within its thought); ``truncated`` (the token limit stopped the thought, or stopped the
text before a complete answer).
"""

import sys
from collections import Counter
from collections.abc import Sequence

from data.command_line import ArgumentParser, exit_on_user_error
from data.dataset_spec import DatasetSpec, parse_spec
from data.datasets import Dataset, load_spec
from data.files import UserError
from data.problem import Completion, Grade, Problem, read_completions, write_records
from eval.choices import Choices
from eval.equality import compare_answers
from eval.extract import extract, parse_value, split_thought
from eval.numbers import parse_number


def is_equal(
    gold: str,
    answer: str,
    kind: str,
    choices: Choices = None,
) -> bool:
    """Whether an extracted answer says the same as the gold one; False where that cannot be decided.

    Numbers are compared exactly, as :func:`eval.numbers.parse_number` reads them; percent is a unit, so "50%" is 50 and
    not 0.5. Choices, labels and texts are compared without case, articles, punctuation and markup; choice letters count
    where the choices have names. yes/true and no/false are the same for labels among them. A text answer that is a
    formula is compared as one (:mod:`eval.equivalence`).
    """
    return compare_answers(gold, answer, kind, choices) is True


def load_benchmark(benchmark: str | DatasetSpec) -> Dataset:
    """Load the benchmark that a user names (see :mod:`data.datasets`), and check that each gold answer can be met.

    Raises:
        UserError: names the line of a gold that no answer could equal: no number, or a choice not on offer.
    """
    spec = parse_spec(benchmark) if isinstance(benchmark, str) else benchmark
    dataset = load_spec(spec)

    for problem in dataset.problems:
        check_gold(problem, dataset.places[problem.id])
    return dataset


def check_gold(problem: Problem, place: str) -> None:
    """Raise UserError, which begins with the place, where no answer could equal a problem's own."""
    answer = problem.answer
    # An answer may be a whole text.
    gold = f"{place}: the answer {answer[:80]!r} of {problem.id!r}"
    if problem.kind == "number" and parse_number(answer) is None:
        raise UserError(f"{gold} is no number that can be read; write it out in digits, or set kind to text")
    if problem.choices and parse_value(answer, problem.kind, problem.choices) is None:
        raise UserError(f"{gold} is none of its choices; fix the answer or the choices")


def grade(problem: Problem, completion: Completion) -> Grade:
    """Grade one completion; never raises on any text.

    A thought that is still open is no answer: ``truncated`` where the limit stopped it, else ``unclosed``. After the
    thought, a truncated text still counts where a complete box or a complete "answer is X." stands in it: base models
    ramble on past their answer. The last sentence counts in finished texts only.
    """
    finished = completion.finish == "stop"
    _, rest, closed = split_thought(completion.text)
    if not closed:
        verdict = "unclosed" if finished else "truncated"
        return Grade(problem.id, False, None, verdict, False)

    extraction = extract(rest, problem.kind, problem.choices, finished)
    answer = extraction.answer

    if answer is None:
        verdict = "no_answer" if finished else "truncated"
    elif extraction.ambiguous:
        # Several guesses earn nothing, though one of them be right.
        verdict = "wrong"
    else:
        verdict = _judge(problem, answer)
    return Grade(problem.id, verdict == "correct", answer, verdict, extraction.boxed)


def _judge(problem: Problem, answer: str) -> str:
    """Return the verdict on one answer that was extracted."""
    is_same = compare_answers(problem.answer, answer, problem.kind, problem.choices)
    if is_same:
        return "correct"
    if is_same is None:
        return "undecided"
    # What is no value of the kind is not a wrong one.
    is_readable = parse_value(answer, problem.kind, problem.choices) is not None
    return "wrong" if is_readable else "no_answer"


def grade_all(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Grade]:
    """Grade one completion for each problem.

    Returns:
        The grades in the order of the problems.

    Raises:
        UserError: where the ids do not match.
    """
    # By id: a file may hold them in any order.
    completion_of = {completion.id: completion for completion in completions}
    ids = {problem.id for problem in problems}

    _refuse(completion_of.keys() - ids, "completions are for no problem of the benchmark")
    _refuse(ids - completion_of.keys(), "problems have no completion")
    return [grade(problem, completion_of[problem.id]) for problem in problems]


def _refuse(ids: set[str], fault: str) -> None:
    if ids:
        raise UserError(
            f"{len(ids)} {fault}, the first is {min(ids)!r}; give the benchmark that the completions were made from"
        )


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 on bad input."""
    parser = ArgumentParser(prog="python -m eval.grade", description="Grade the completions of one benchmark.")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME", help="the problems")
    parser.add_argument("--completions", required=True, metavar="FILE", help="what a model wrote, a line a problem")
    parser.add_argument("--out", required=True, metavar="FILE", help="for the grades")
    options = parser.parse_args(arguments)

    problems = load_benchmark(options.benchmark).problems
    grades = grade_all(problems, read_completions(options.completions))
    write_records(options.out, grades)

    verdicts = Counter(grade.verdict for grade in grades)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    # Behind the grades it would be no JSON.
    stream = sys.stderr if options.out == "/dev/stdout" else sys.stdout
    print(f"{options.out}: {verdicts['correct']} of {len(grades)} correct ({counts})", file=stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())
