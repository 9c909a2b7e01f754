"""Worked solutions as text: the styles that a generated one is written in, and a data set's rationale as steps.

A solution is a list of lines, one operation a line, each on the question's numbers and the lines before. A *program*
is its operations as (op, left, right, result).
"""

import functools
import re
from collections.abc import Sequence

from data import logic
from data.problem import Problem

STYLES = ("procedure", "short", "long", "prose")

# Several times what our longest procedure takes.
MAX_LINES = 100

Operation = tuple[str, int, int, int]
OPERATIONS = ("+", "-", "*", "/")

# A calculator mark of GSM8K, as in "48/2 = <<48/2=24>>24 clips".
# Source: Cobbe et al. 2021, arXiv 2110.14168, section 4.1.
_MARK = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")


def render_solution(problem: Problem, style: str) -> str:
    """A generated problem's solution in one of four styles.

    ``procedure`` is the same whatever the answer, with one operation in each line: of logic it is what
    :data:`data.logic.PROCEDURES` allows, of arithmetic it is ``long``. ``short`` is as it is stored, one step a line.
    ``long`` says first what is to be worked out, then the steps that it takes, place by place for products and for
    differences of several digits. ``prose`` is one paragraph of sentences. Of logic, ``short`` and ``long`` are alike.
    """
    rationale = problem.rationale or ""
    lines = rationale.split("\n")

    if style == "prose":
        sentences = [line if line.endswith(".") else f"{line}." for line in lines]
        return " ".join(sentences)

    if style == "procedure" and has_procedure(problem):
        return write_procedure(problem)

    program = read_program(problem)
    if style in ("procedure", "long") and program:
        # "Apples left: 7 - 3 = 4": the stored solution holds the labels.
        labels = [line.rpartition(": ")[0] for line in lines if ": " in line]
        # A user's copy of our problems may have other steps.
        is_ours = len(labels) in (0, len(program)) and write_short(program, labels) == rationale
        return write_long(program, labels) if is_ours else rationale
    return rationale


def read_program(problem: Problem) -> list[Operation]:
    """The operations of a generated sum; none of a problem whose field of that name is something else."""
    program = problem.extra.get("program")
    if not isinstance(program, list):
        return []

    for operation in program:
        is_one = isinstance(operation, list | tuple) and len(operation) == 4 and operation[0] in OPERATIONS
        if not is_one or not all(type(number) is int for number in operation[1:]):
            return []
    return program


def has_procedure(problem: Problem) -> bool:
    """Whether a problem is one that our logic procedures can solve: theirs comes to its answer."""
    if problem.family not in logic.PROCEDURES:
        return False

    # A question of the user's own may have the same family, and is not told as ours are: read as ours, it may come to
    # anything. All conclusions end on the answer: "So valid.", "True and False = False".
    conclusion = write_procedure(problem).rstrip(".").rpartition(" ")[2]
    return conclusion.casefold() == problem.answer.casefold()


def write_procedure(problem: Problem) -> str:
    """The solution of a logic problem in which each line is the first of those that may follow.

    It is empty where none may, and where there is no end to them.
    """
    return _write_procedure(problem.family, problem.question)


# The step checker asks for it at each sample; truth values of many equal parts take seconds.
@functools.lru_cache(maxsize=10_000)
def _write_procedure(family: str, question: str) -> str:
    list_next_lines = logic.PROCEDURES[family]

    lines: list[str] = []
    while next_lines := list_next_lines(question, lines):
        lines.append(next_lines[0])
        # A user's rules may lead in a circle.
        if len(lines) > MAX_LINES:
            return ""
    return "\n".join(lines)


def write_short(program: Sequence[Operation], labels: Sequence[str] = ()) -> str:
    """A program, one equation a line; a label names the result of its operation."""
    lines: list[str] = []
    for index, (op, left, right, result) in enumerate(program):
        if op == "*":
            lines += split_product(left, right)
        else:
            lines.append(f"{left} {op} {right} = {result}")

        # A product of several lines is named where its result stands.
        if labels:
            lines[-1] = f"{labels[index]}: {lines[-1]}"
    return "\n".join(lines)


def write_long(program: Sequence[Operation], labels: Sequence[str] = ()) -> str:
    """A program with each operation that takes several steps named before it; a label names an operation's result."""
    lines = []
    for index, (op, left, right, result) in enumerate(program):
        steps = [f"{left} {op} {right} = {result}"]
        if op == "*":
            steps = split_product(left, right)
        # All of them: whether one borrows is a choice that the solution would leave unsaid.
        elif op == "-":
            steps = split_difference(left, right)

        # A label before the last of several steps, as in the short style, makes a model write the whole result there.
        prefix = f"{labels[index]}: " if labels else ""
        if len(steps) > 1:
            lines += [f"{prefix}{left} {op} {right}", *steps]
        else:
            lines.append(prefix + steps[0])
    return "\n".join(lines)


def split_product(a: int, b: int) -> list[str]:
    """The equations of a product: one where the times table does, else place by place with a running sum."""
    small, large = sorted((_strip_zeros(a), _strip_zeros(b)))
    if large < 10 or small <= 1 or (small == 2 and large < 100):
        return [f"{a} * {b} = {a * b}"]

    small, large = sorted((a, b))
    # The smaller factor is split, unless it has only one digit.
    splits_small = _strip_zeros(small) >= 10
    factor = small if splits_small else large
    other = large if splits_small else small

    lines: list[str] = []
    total = 0
    for part in list_places(factor):
        # The larger factor, or its part, stands first.
        lines += split_product(other, part) if factor == small else split_product(part, other)
        # The first part is the sum so far.
        if total:
            lines.append(f"{total} + {part * other} = {total + part * other}")
        total += part * other
    return lines


def split_difference(a: int, b: int) -> list[str]:
    """The equations of a difference, one for each place of what is taken away."""
    lines = []
    # Nothing taken away is an equation, too: 5 - 0 = 5.
    for part in list_places(b) or [0]:
        lines.append(f"{a} - {part} = {a - part}")
        a -= part
    return lines


def _strip_zeros(number: int) -> int:
    """A number without its trailing zeros."""
    while number and number % 10 == 0:
        number //= 10
    return number


def list_places(number: int) -> list[int]:
    """The parts of a number, one for each nonzero digit: 305 is 300 and 5."""
    digits = str(number)
    parts = []
    for place, digit in enumerate(digits, 1):
        zeros = len(digits) - place
        parts.append(int(digit) * 10**zeros)
    return [part for part in parts if part]


def solution_from_marks(rationale: str) -> str:
    """A rationale's calculator marks as equations, one a line; a rationale without any as it is."""
    marks = _MARK.findall(rationale)
    if not marks:
        return rationale

    equations = []
    for left, right in marks:
        spaced = re.sub(r"\s*([-+*/])\s*", r" \1 ", left)
        equations.append(f"{spaced.strip()} = {right.strip()}")
    return "\n".join(equations)
