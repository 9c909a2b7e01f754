"""Check the steps of a solution by recomputing them.

A step is an equation of numbers or of True and False, which is worked out again here (never evaluated as code), or a
line of one of our logic procedures, which must follow from the question and the lines before it. Whatever else a text
says is not a step.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from data.logic import PROCEDURES
from data.problem import Problem
from data.solutions import has_procedure, list_places, read_program
from eval.extract import split_thought
from eval.grade import is_equal


@dataclass(frozen=True)
class Step:
    """An equation of a text, its right side, and whether that is what the left side comes to."""

    text: str
    result: str
    correct: bool


@dataclass(frozen=True)
class WrongStep:
    """The first line of a solution that is wrong, and what it was to do."""

    text: str
    operation: str


_NUMBER = r"\d{1,15}(?:\.\d{1,6})?"

_SIGN = r"\s*[-+*/×÷]\s*"

# A sum with what it is said to be, which may be a sum again: "3 + 4 = 8 - 1 = 7".
# Nothing before or after it that would belong to it: more digits, a name, a root, a power, an operation, a bracket.
_CHAIN = re.compile(
    rf"(?<![\w.(^√])(?<![-+*/×÷]\s)(?<![-+*/×÷]){_NUMBER}(?:{_SIGN}{_NUMBER})+"
    rf"(?:\s*=\s*-?{_NUMBER}(?:{_SIGN}{_NUMBER}(?![\w(]))*)+(?![\d.]*\d|{_SIGN}\d|\s*\^|\s\d+/\d)"
)
_TRUTH = re.compile(r"(?:(not)\s+)?(True|False)(?:\s+(and|or)\s+(True|False))?\s*=\s*(True|False)")
_INEQUALITY = re.compile(rf"\(?({_NUMBER})\s*([<>])\s*({_NUMBER})\)?\s*=\s*(True|False)")

# An operation that the next lines work out: "Apples left: 47 * 16".
_ANNOUNCED = re.compile(rf"(?:[^=]*: )?({_NUMBER} [-+*/] {_NUMBER})")

# What a line of a procedure looks like, right or wrong, by what it does.
FORMS = {
    "analogy": {
        "relation": r"\w+ (?:is|are) .+",
        "answer": r".+: \w+",
    },
    "boolean": {
        "comparison": r"\(?\d+ [<>] \d+\)? = \w+",
        "operator": r"(?:not )?\w+(?: (?:and|or) \w+)? = \w+",
    },
    "ordering": {
        "question": r"(?:Is|Who is) .+: .+",
        "comparison": r"\w+ is \w+ than .+",
        "look-up": r"\w+ [<>] \w+",
        "conclusion": r"\w+ is (?:not )?found.*|So .+: \w+",
    },
    "rules": {
        "fact": r"\w+ is an? \w+",
        "rule": r"(?:All|Every|No) \w+ (?:is|are) .+",
        "conclusion": r"So \w+ is .+",
        "answer": r"Asked .+: \w+",
    },
    "syllogism": {
        "denial": r"Suppose not: .+",
        "statement": r"Some .+: .+",
        "rule": r"(?:All|No) .+: .+",
        "conclusion": r"So (?:in)?valid",
    },
}

# Numbers that our questions say in words.
NUMBER_WORDS = {"twice": 2}


def find_steps(text: str) -> list[Step]:
    """Return every equation of a text, in order."""
    steps = []
    for line in text.split("\n"):
        truth = _TRUTH.fullmatch(line.strip())
        if truth:
            steps.append(_check_truth(truth))

        inequality = _INEQUALITY.fullmatch(line.strip())
        if inequality:
            steps.append(_check_inequality(inequality))

        for left, right in _find_equations(line):
            steps.append(Step(f"{left} = {right}", right, _holds(left, right)))
    return steps


def _find_equations(line: str) -> Iterator[tuple[str, str]]:
    """Yield both sides of each equation of a line; a chain of them is several."""
    # One space at most, or a sum that never comes would be looked for from each of many.
    spaced = re.sub(r"\s+", " ", _drop_marks(line))
    for chain in _CHAIN.findall(spaced):
        yield from itertools.pairwise(map(str.strip, chain.split("=")))


def _holds(left: str, right: str) -> bool:
    value = _compute(left)
    # Two divisions by zero are not equal.
    return value is not None and value == _compute(right)


def _drop_marks(text: str) -> str:
    """Take out currency signs, and the commas between thousands."""
    return re.sub(r"\$|(?<=\d),(?=\d{3}(?!\d))", "", text)


def _check_truth(match: re.Match[str]) -> Step:
    negated, left, operation, right, result = match.groups()
    value = (left == "True") != bool(negated)

    if operation == "and":
        value = value and right == "True"
    elif operation == "or":
        value = value or right == "True"
    return Step(match[0], result, str(value) == result)


def _check_inequality(match: re.Match[str]) -> Step:
    left, sign, right, result = match.groups()
    smaller, larger = (left, right) if sign == "<" else (right, left)
    value = Fraction(smaller) < Fraction(larger)
    return Step(match[0], result, str(value) == result)


def _compute(expression: str) -> Fraction | None:
    """Return the value of numbers joined by operations, * and / first; None where it divides by zero."""
    # The first one may be negative.
    if expression.startswith("-"):
        expression = f"0{expression}"
    first, *others = re.findall(rf"{_NUMBER}|[-+*/×÷]", expression)
    total = Fraction(0)
    term = Fraction(first)  # signed, not yet added to the total

    # They take turns: an operation, its operand.
    for operation, text in zip(others[::2], others[1::2], strict=True):
        operand = Fraction(text)
        if operation in "*×":
            term *= operand
        elif operation in "/÷":
            if operand == 0:
                return None
            term /= operand
        else:
            total += term
            term = operand if operation == "+" else -operand
    return total + term


# The steps of a problem's solution


def find_wrong_step(problem: Problem, text: str) -> WrongStep | None:
    """Return the first step of a completion that is wrong; None where every step that can be checked is right.

    A step is wrong too where the question and the steps before it do not give what it starts from.
    """
    lines = _read_lines(text)
    # Then every line can be checked.
    if has_procedure(problem):
        wrong = _follow_procedure(problem, lines)[1]
        if wrong:
            return wrong

    # What numbers a question gives is known where its operations are.
    known = _read_numbers(problem.question) if read_program(problem) else None
    for before, line in itertools.pairwise(["", *lines]):
        # No solution needs the same line twice in a row.
        is_repeated = known is not None and line == before
        for left, right in _find_equations(line):
            is_founded = not is_repeated and _is_founded(left, known)
            if not is_founded or not _holds(left, right):
                return WrongStep(f"{left} = {right}", _name_operation(left) or _name_operation(right) or "=")
            if known is not None:
                known |= _list_numbers(right)

        announced = _ANNOUNCED.fullmatch(line)
        if announced and (is_repeated or not _is_founded(announced[1], known)):
            return WrongStep(line, _name_operation(announced[1]))

        truth = _TRUTH.fullmatch(line)
        if truth and not _check_truth(truth).correct:
            return WrongStep(line, "operator")

        inequality = _INEQUALITY.fullmatch(line)
        if inequality and not _check_inequality(inequality).correct:
            return WrongStep(line, "comparison")
    return None


def _is_founded(expression: str, known: set[Fraction] | None) -> bool:
    """Whether each number of an expression is known; what is known may be unknown itself."""
    numbers = map(Fraction, re.findall(_NUMBER, expression))
    return known is None or known.issuperset(numbers)


def is_checked(problem: Problem, text: str) -> bool:
    """Whether a completion has no wrong step, and its steps come to the problem's answer."""
    lines = _read_lines(text)
    if has_procedure(problem):
        # Nothing may follow: the last line is the conclusion.
        accepted, _ = _follow_procedure(problem, lines)
        return not _list_next_lines(problem, accepted) and find_wrong_step(problem, text) is None

    steps = find_steps("\n".join(lines))
    if not steps or find_wrong_step(problem, text):
        return False
    return is_equal(problem.answer, steps[-1].result, problem.kind, problem.choices)


def get_solution(text: str) -> str:
    """Return a completion's thought, or the whole text where it has none or a blank one."""
    thought = split_thought(text).thought
    return thought if thought and thought.strip() else text


def _read_lines(text: str) -> list[str]:
    """The lines of a completion's solution."""
    lines = [line.strip() for line in get_solution(text).split("\n")]
    return [line for line in lines if line]


def _list_next_lines(problem: Problem, lines: Sequence[str]) -> list[str]:
    return PROCEDURES[problem.family](problem.question, lines)


def _follow_procedure(problem: Problem, lines: Sequence[str]) -> tuple[list[str], WrongStep | None]:
    """Return the lines that follow from the question and each other, and the first step that does not."""
    accepted: list[str] = []
    next_lines = _list_next_lines(problem, accepted)

    # In prose the steps are the sentences of one line.
    sentences = re.split(r"(?<=\.)\s+|\n", "\n".join(lines))
    for sentence in sentences:
        claim = sentence.rstrip(".")
        allowed = [line for line in next_lines if line.rstrip(".") == claim]
        if allowed:
            accepted.append(allowed[0])
            next_lines = _list_next_lines(problem, accepted)
            continue

        # A line that looks like a step of the procedure must be one; any other is a remark.
        for operation, form in FORMS[problem.family].items():
            if re.fullmatch(form, claim):
                return accepted, WrongStep(sentence, operation)
    return accepted, None


def _read_numbers(question: str) -> set[Fraction]:
    """The numbers that a question gives, and the parts of each."""
    numbers = _list_numbers(_drop_marks(question))
    words = re.findall(r"[a-z]+", question.lower())
    for word, number in NUMBER_WORDS.items():
        if word in words:
            numbers.add(Fraction(number))
    return numbers


def _list_numbers(text: str) -> set[Fraction]:
    """The numbers of a text, and the parts of each."""
    numbers: set[Fraction] = set()
    # A minus behind a number is an operation.
    for number in re.findall(rf"(?:(?<!\d)(?<!\d )-)?{_NUMBER}", text):
        numbers |= _split_number(number)
    return numbers


def _split_number(text: str) -> set[Fraction]:
    """A number and its parts, one for each nonzero digit."""
    number = Fraction(text)
    is_countable = number.denominator == 1 and number > 0
    parts = list_places(int(number)) if is_countable else []
    return {number, *map(Fraction, parts)}


def _name_operation(expression: str) -> str:
    """The operations of an expression, each once, such as "*" or "+ -"."""
    return " ".join(dict.fromkeys(re.findall(r"[-+*/×÷]", expression)))
