r"""Grade completions on disk: one extracted answer, one verdict, 0 or 1.

    python -m eval.grade --benchmark FILE|NAME --completions FILE --out FILE

The reward in training calls the same :func:`grade`. It needs no model, evaluates nothing a model wrote, and its work
is bounded. Verdicts: ``correct``; ``wrong`` (also several guesses); ``no_answer`` (none there, or none that can be read
as the kind asked for); ``unclosed`` (the model stopped within its thought); ``truncated`` (the token limit stopped the
thought, or stopped the text before a complete answer).
"""

import re
import sys
import threading
from collections import Counter
from collections.abc import Sequence

from data.command_line import ArgumentParser, exit_on_user_error
from data.datasets import Dataset, DatasetSpec, load_spec, parse_spec
from data.files import UserError
from data.problem import Completion, Grade, Problem, read_completions, write_records
from eval.extract import (
    MAX_NUMBER,
    Choices,
    clean_markup,
    extract,
    normalize_answer,
    parse_number,
    parse_value,
    split_thought,
)

# Signs that make a text answer a formula, so that brackets and case count.
_FORMULA = re.compile(r"[\\^=+*<>]|\d\s?[-/()\[\]]|(?<![A-Za-z]{2})[-/(\[]\s?\d|\b[a-z]\s?[-/]\s?[a-z]\b")


def is_equal(gold: str, answer: str, kind: str, choices: Choices = None) -> bool:
    """Whether an extracted answer says the same as the gold one.

    Numbers are compared exactly, as :func:`eval.extract.parse_number` reads them; percent is a unit, so "50%" is 50 and
    not 0.5. Choices, labels and texts are compared without case, articles, punctuation and markup; choice letters count
    where the choices have names. yes/true and no/false are the same for labels among them. A text answer that is a
    formula is compared sign by sign, then by math-verify.
    """
    if kind == "text" and not choices and _FORMULA.search(gold):
        return _is_equal_formula(gold, answer)

    # A text that is the gold one needs no reading, even where it is no choice.
    if kind != "number":
        normalized = normalize_answer(gold)
        if normalized and normalized == normalize_answer(answer):
            return True

    value = parse_value(gold, kind, choices)
    return value is not None and value == parse_value(answer, kind, choices)


def _is_equal_formula(gold: str, answer: str) -> bool:
    # "1/2" and "0.5" are one number, though both look like formulas.
    number = parse_number(gold)
    if number is not None and number == parse_number(answer):
        return True

    bare_gold, bare_answer = (re.sub(r"\s", "", clean_markup(text)) for text in (gold, answer))
    return bare_gold == bare_answer or _verify_formula(gold, answer)


# A power that math-verify may see: a literal exponent of at most two characters, and no tower of them.
_EXPONENT = re.compile(r"\^\s?(?:\w|\{\s?-?(?:[^{}^]{1,2}|\\pi)\})(?!\s?\^)")

# The LaTeX commands that it may see: none of them starts a long computation.
_COMMANDS = {"frac", "dfrac", "tfrac", "sqrt", "pi", "cdot", "times", "div", "pm", "infty", "cup", "cap", "in", "left"}
_COMMANDS |= {"right", "text", "le", "leq", "ge", "geq", "ne", "neq", "lt", "gt", "theta", "alpha", "beta", "circ"}
_COMMANDS |= {"sin", "cos", "tan", "begin", "end", "pmatrix", "bmatrix", "mathbb", "emptyset"}


def _is_cheap(formula: str) -> bool:
    """Whether a formula is sure to be quick to work out: a signal cannot stop one huge integer power."""
    if len(formula) > MAX_NUMBER:
        return False
    if re.search(r"!|\d{20}|\*\*", formula):
        return False

    if formula.count("^") != len(_EXPONENT.findall(formula)):
        return False
    # Powers of brackets multiply: each one may hold another.
    if len(re.findall(r"[)}\]]\s?\^", formula)) > 2:
        return False
    return set(re.findall(r"\\([A-Za-z]+)", formula)) <= _COMMANDS


def _verify_formula(gold: str, answer: str) -> bool:
    """Whether math-verify 0.9 finds two LaTeX formulas equal; False where either is not :func:`_is_cheap`.

    Its timeout is a SIGALRM, which needs the main thread; in another one the check above alone bounds the work. Only
    its LaTeX parser is used: the other (sympy's ``parse_expr``) runs ``eval`` on the text.
    """
    if not (_is_cheap(gold) and _is_cheap(answer)):
        return False

    # Imports sympy, which takes a second.
    from math_verify import LatexExtractionConfig, parse, verify

    in_main_thread = threading.current_thread() is threading.main_thread()
    seconds = 1 if in_main_thread else None

    parsed = [
        parse(
            f"${text.replace('$', ' ')}$",
            extraction_config=[LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=seconds,  # type: ignore[arg-type]
        )
        for text in (gold, answer)
    ]
    return bool(verify(*parsed, timeout_seconds=seconds))


def load_benchmark(benchmark: str | DatasetSpec) -> Dataset:
    """Load the benchmark that a user names (see :mod:`data.datasets`), and check that each gold answer can be met.

    Raises:
        UserError: names the line of a gold that no answer could equal: no number, or a choice not on offer.
    """
    spec = parse_spec(benchmark) if isinstance(benchmark, str) else benchmark
    dataset = load_spec(spec)

    for problem in dataset.problems:
        gold = f"{dataset.places[problem.id]}: the answer {problem.answer[:80]!r} of {problem.id!r}"
        if problem.kind == "number" and parse_number(problem.answer) is None:
            raise UserError(f"{gold} is no number that can be read; write it out in digits, or set kind to text")
        if problem.choices and parse_value(problem.answer, problem.kind, problem.choices) is None:
            raise UserError(f"{gold} is none of its choices; fix the answer or the choices")
    return dataset


def grade(problem: Problem, completion: Completion) -> Grade:
    """Grade one completion; never raises on any text.

    A thought that is still open is no answer: ``truncated`` where the limit stopped it, else ``unclosed``. After the
    thought, a truncated text still counts where a complete box or a complete "answer is X." stands in it: base models
    ramble on past their answer. The last candidate of the kind counts in finished texts only.
    """
    finished = completion.finish == "stop"
    _, rest, closed = split_thought(completion.text)
    if not closed:
        return Grade(problem.id, False, None, "unclosed" if finished else "truncated", False)

    extraction = extract(rest, problem.kind, problem.choices, finished)
    answer = extraction.answer

    if answer is None:
        verdict = "no_answer" if finished else "truncated"
    elif extraction.ambiguous:
        verdict = "wrong"
    elif is_equal(problem.answer, answer, problem.kind, problem.choices):
        verdict = "correct"
    elif parse_value(answer, problem.kind, problem.choices) is None:
        verdict = "no_answer"
    else:
        verdict = "wrong"
    return Grade(problem.id, verdict == "correct", answer, verdict, extraction.boxed)


def grade_all(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Grade]:
    """Grade one completion for each problem.

    Returns:
        The grades in the order of the problems.

    Raises:
        UserError: where the ids do not match.
    """
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
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME")
    parser.add_argument("--completions", required=True, metavar="FILE")
    parser.add_argument("--out", required=True, metavar="FILE")
    options = parser.parse_args(arguments)

    problems = load_benchmark(options.benchmark).problems
    grades = grade_all(problems, read_completions(options.completions))
    write_records(options.out, grades)

    verdicts = Counter(grade.verdict for grade in grades)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    print(f"{options.out}: {verdicts['correct']} of {len(grades)} correct ({counts})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
