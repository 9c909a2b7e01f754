"""Expression trees: their value, their operations in order, and the two ways to write them."""

import operator
from collections.abc import Sequence
from typing import TypeAlias

from data.problem import Problem
from data.solutions import Operation, write_short
from data.words import is_too_long

Tree: TypeAlias = "int | tuple[str, Tree, Tree]"

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
COMPUTE = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


def compute_value(tree: Tree) -> int:
    """The value of a tree; every division in a tree is exact."""
    if isinstance(tree, int):
        return tree

    op = tree[0]
    left = compute_value(tree[1])
    right = compute_value(tree[2])
    return COMPUTE[op](left, right)


def list_operations(tree: Tree) -> list[Operation]:
    """The operations of a tree in the order of computation."""
    if isinstance(tree, int):
        return []

    op, left, right = tree
    operations = list_operations(left) + list_operations(right)
    last = (op, compute_value(left), compute_value(right), compute_value(tree))
    return [*operations, last]


def write_canonical(tree: Tree) -> str:
    """A tree as text, fully parenthesized, the operands of + and * in a fixed order."""
    if isinstance(tree, int):
        return str(tree)

    op = tree[0]
    sides = [write_canonical(side) for side in tree[1:]]
    if op in "+*":
        sides.sort(key=lambda text: (len(text), text))
    return f"({sides[0]}{op}{sides[1]})"


def write_infix(tree: Tree) -> str:
    """A tree as it is written by hand, with the parentheses it needs and no more."""
    if isinstance(tree, int):
        return str(tree)

    op, left, right = tree
    rank = PRECEDENCE[op]
    return f"{_write_side(left, rank)} {op} {_write_side(right, rank + 1)}"


def _write_side(tree: Tree, min_rank: int) -> str:
    text = write_infix(tree)
    is_bare = isinstance(tree, int) or PRECEDENCE[tree[0]] >= min_rank
    return text if is_bare else f"({text})"


def make_problem(
    family: str,
    level: int,
    question: str,
    tree: Tree,
    key: str,
    labels: Sequence[str] = (),
) -> Problem | None:
    """The problem that asks for a tree's value, without an id; None where it takes too many words.

    Args:
        family: the name of its family.
        level: 1 to 5.
        question: the whole text.
        tree: what is to be worked out.
        key: the content key, which is the same for every wording.
        labels: what each operation's result is, or nothing.
    """
    program = list_operations(tree)
    solution = write_short(program, labels)
    if is_too_long(question, solution):
        return None

    return Problem(
        id="",
        question=question,
        answer=str(compute_value(tree)),
        kind="number",
        family=family,
        level=level,
        rationale=solution,
        extra={"key": key, "program": [list(operation) for operation in program]},
    )
