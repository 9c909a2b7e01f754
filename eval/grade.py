r"""Grade completions on disk: one extracted answer, one verdict, 0 or 1.

    python -m eval.grade --benchmark FILE|NAME --completions FILE --out FILE

The reward in training calls the same :func:`grade`. It needs no model, evaluates nothing a model wrote, and its work
is bounded. Verdicts: ``correct``; ``wrong`` (also several guesses); ``no_answer`` (none there, or none that can be read
as the kind asked for); ``unclosed`` (the model stopped within its thought); ``truncated`` (the token limit cut the
thought, or cut the text before a complete answer).
"""

import re
import sys
import threading
from collections import Counter
from collections.abc import Sequence

from data import sets
from data.command import Parser, one_line_errors
from data.records import BadInput, Completion, Grade, Problem, read_completions, write_records
from data.sets import Benchmark
from eval.extract import MAX_NUMBER, clean, extract, number, plain, split_thought, value

# Signs that make a text answer a formula, so that brackets and case count.
_FORMULA = re.compile(r"[\\^=+*<>]|\d\s?[-/()\[\]]|(?<![A-Za-z]{2})[-/(\[]\s?\d|\b[a-z]\s?[-/]\s?[a-z]\b")


def equal(gold: str, given: str, kind: str, choices: Sequence[str] | None = None) -> bool:
    """Whether an extracted answer says the same as the gold one.

    Numbers are compared exactly, as :func:`eval.extract.number` reads them; percent is a unit, so "50%" is 50 and not
    0.5. Choices, labels and texts are compared without case, articles, punctuation and markup; choice letters count
    where the choices have names. yes/true and no/false are the same for labels among them. A text answer that is a
    formula is compared sign by sign, then by math-verify.
    """
    if kind == "text" and not choices and _FORMULA.search(gold):
        exact = number(gold)
        if exact is not None and exact == number(given):
            return True
        return re.sub(r"\s", "", clean(gold)) == re.sub(r"\s", "", clean(given)) or _same_formula(gold, given)
    if kind != "number" and plain(gold) and plain(gold) == plain(given):
        return True
    wanted = value(gold, kind, choices)
    return wanted is not None and wanted == value(given, kind, choices)


# A power that math-verify may see: a literal exponent of at most two characters, and no tower of them.
_EXPONENT = re.compile(r"\^\s?(?:\w|\{\s?-?(?:[^{}^]{1,2}|\\pi)\})(?!\s?\^)")
_COMMANDS = {"frac", "dfrac", "tfrac", "sqrt", "pi", "cdot", "times", "div", "pm", "infty", "cup", "cap", "in", "left"}
_COMMANDS |= {"right", "text", "le", "leq", "ge", "geq", "ne", "neq", "lt", "gt", "theta", "alpha", "beta", "circ"}
_COMMANDS |= {"sin", "cos", "tan", "begin", "end", "pmatrix", "bmatrix", "mathbb", "emptyset"}


def _tame(formula: str) -> bool:
    """Whether working a formula out is sure to stay small: a signal cannot stop one huge integer power."""
    return (
        len(formula) <= MAX_NUMBER
        and not re.search(r"!|\d{20}|\*\*", formula)
        and formula.count("^") == len(_EXPONENT.findall(formula))
        and len(re.findall(r"[)}\]]\s?\^", formula)) <= 2
        and set(re.findall(r"\\([A-Za-z]+)", formula)) <= _COMMANDS
    )


def _same_formula(gold: str, given: str) -> bool:
    """Whether math-verify 0.9 finds two LaTeX formulas equal; False where either is not :func:`_tame`.

    Its timeout is a SIGALRM, which needs the main thread; in another one the screen alone bounds the work. Only its
    LaTeX parser is used: the other (sympy's ``parse_expr``) runs ``eval`` on the text.
    """
    if not (_tame(gold) and _tame(given)):
        return False
    from math_verify import LatexExtractionConfig, parse, verify

    seconds = 1 if threading.current_thread() is threading.main_thread() else None
    gold_parsed, given_parsed = (
        parse(
            f"${text.replace('$', ' ')}$",
            extraction_config=[LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=seconds,  # type: ignore[arg-type]
        )
        for text in (gold, given)
    )
    return bool(verify(gold_parsed, given_parsed, timeout_seconds=seconds))


def read_benchmark(spec: str) -> Benchmark:
    """The benchmark that a user names (see :mod:`data.sets`). BadInput names the line of a gold that no answer could
    ever equal: a number that is none, or a choice not on offer."""
    benchmark = sets.read(spec)
    for problem in benchmark.problems:
        gold = f"{benchmark.places[problem.id]}: the answer {problem.answer[:80]!r} of {problem.id!r}"
        if problem.kind == "number" and number(problem.answer) is None:
            raise BadInput(f"{gold} is no number that can be read; write it out in digits, or set kind to text")
        if problem.choices and value(problem.answer, problem.kind, problem.choices) is None:
            raise BadInput(f"{gold} is none of its choices; mend the answer or the choices")
    return benchmark


def grade(problem: Problem, completion: Completion) -> Grade:
    """Grade one completion; never raises on any text.

    A thought that is still open is no answer: ``truncated`` where the limit cut it, else ``unclosed``. After the
    thought, a text that the limit cut still counts where a complete box or a complete "answer is X." stands in it:
    base models ramble on past their answer. The last candidate of the kind counts in finished texts only.
    """
    finished = completion.finish == "stop"
    _, rest, closed = split_thought(completion.text)
    if not closed:
        return Grade(problem.id, False, None, "unclosed" if finished else "truncated", False)
    found = extract(rest, problem.kind, problem.choices, finished)
    if found.answer is None:
        verdict = "no_answer" if finished else "truncated"
    elif found.ambiguous:
        verdict = "wrong"
    elif equal(problem.answer, found.answer, problem.kind, problem.choices):
        verdict = "correct"
    else:
        verdict = "wrong" if value(found.answer, problem.kind, problem.choices) is not None else "no_answer"
    return Grade(problem.id, verdict == "correct", found.answer, verdict, found.boxed)


def grade_all(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Grade]:
    """Grade one completion for each problem, in the order of the problems; BadInput where the ids do not match."""
    by_id = {completion.id: completion for completion in completions}
    known = {problem.id for problem in problems}
    for ids, fault in (
        (by_id.keys() - known, "completions are for no problem of the benchmark"),
        (known - by_id.keys(), "problems have no completion"),
    ):
        if ids:
            raise BadInput(
                f"{len(ids)} {fault}, the first is {min(ids)!r}; give the benchmark that the completions were made from"
            )
    return [grade(problem, by_id[problem.id]) for problem in problems]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 on bad input."""
    parser = Parser(prog="python -m eval.grade", description="Grade the completions of one benchmark.")
    parser.add_argument("--benchmark", required=True, metavar="FILE|NAME")
    for name in ("completions", "out"):
        parser.add_argument(f"--{name}", required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    grades = grade_all(read_benchmark(options.benchmark).problems, read_completions(options.completions))
    write_records(options.out, grades)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(g.verdict for g in grades).most_common())
    print(f"{options.out}: {sum(g.correct for g in grades)} of {len(grades)} correct ({counts})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
