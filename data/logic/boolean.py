"""Truth values: a tree of not, and, or over constants and comparisons."""

import random
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from data.logic.problems import TRUE_FALSE, make_problem
from data.problem import Problem

Tree: TypeAlias = "str | tuple[str, Tree] | tuple[str, Tree, Tree]"

# How often a leaf is a comparison, by level: constants alone give only ten problems at level 1.
COMPARISONS = {
    1: 0.5,
    2: 0.25,
    3: 0.1,
    4: 0.1,
    5: 0.1,
}
# "and" and "or" twice as often as "not".
OPERATORS = ("not", "and", "and", "or", "or")
TEXTS = (
    "What is {}?",
    "Evaluate {}.",
    "True or False: what is the value of {}?",
    "Find the truth value of {}.",
)


def draw_boolean(
    rng: random.Random,
    level: int,
    texts: Sequence[str] = TEXTS,
    comparisons: float | None = None,
) -> Problem | None:
    """One expression of ``level`` operators; ``comparisons`` is how often a leaf is one."""
    if comparisons is None:
        comparisons = COMPARISONS[level]
    operator = rng.choice(OPERATORS)
    value = rng.random() < 0.5

    # Until this operator gives this value: else an outer "or" would mean True three times in four.
    while True:
        tree = _draw_tree(rng, level, comparisons)
        lines: list[str] = []
        if _evaluate(tree, lines) == value and tree[0] == operator:
            break

    text = _write_tree(tree)
    # A double negation is hard to read.
    if "not (not" in text:
        return None
    question = rng.choice(texts).format(text)
    return make_problem("boolean", level, question, str(value), TRUE_FALSE, lines, text)


def _draw_tree(rng: random.Random, operators: int, comparisons: float) -> Tree:
    if operators == 0:
        return _draw_leaf(rng, comparisons)

    operator = rng.choice(OPERATORS)
    if operator == "not":
        return (operator, _draw_tree(rng, operators - 1, comparisons))

    on_the_left = rng.randint(0, operators - 1)
    left = _draw_tree(rng, on_the_left, comparisons)
    right = _draw_tree(rng, operators - 1 - on_the_left, comparisons)
    return (operator, left, right)


def _draw_leaf(rng: random.Random, comparisons: float) -> str:
    if rng.random() >= comparisons:
        return rng.choice(TRUE_FALSE)
    # Two different numbers, so that one of them is larger.
    a, b = rng.sample(range(1, 10), 2)
    sign = rng.choice("<>")
    return f"({a} {sign} {b})"


def _write_tree(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    if len(tree) == 2:
        return f"not {_write_operand(tree[1])}"
    return f"{_write_operand(tree[1])} {tree[0]} {_write_operand(tree[2])}"


def _write_operand(tree: Tree) -> str:
    """A tree in parentheses, so that no precedence is needed."""
    return tree if isinstance(tree, str) else f"({_write_tree(tree)})"


def _evaluate(tree: Tree, lines: list[str]) -> bool:
    """The value of a tree; what it took is added to ``lines``, innermost first."""
    if tree in TRUE_FALSE:
        return tree == "True"

    if isinstance(tree, str):
        text = tree
    elif len(tree) == 2:
        text = f"not {_evaluate(tree[1], lines)}"
    else:
        left = _evaluate(tree[1], lines)
        right = _evaluate(tree[2], lines)
        text = f"{left} {tree[0]} {right}"

    value = _compute(text)
    lines.append(f"{text} = {value}")
    return value


# The procedure: whatever has only truth values left is worked out, and its value takes its place.

_EXPRESSION = re.compile(r"[(\dTFn][\w()<> ]*(?:True|False|\))(?=[?.])")
_READY = re.compile(r"\(\d [<>] \d\)|not (?:True|False)|(?:True|False) (?:and|or) (?:True|False)")


def list_next_lines(question: str, lines: Sequence[str]) -> list[str]:
    """The lines that may follow ``lines`` in a solution of the question; none after the last one."""
    # A line may be of several places, so there may be several expressions left. A dict keeps their order, which a set
    # does not: the first of the next lines is the same in every process.
    left = dict.fromkeys(_EXPRESSION.findall(question))
    for line in lines:
        steps = _list_steps(left)
        left = dict.fromkeys(rest for equation, rest in steps if equation == line)

    equations = [equation for equation, _ in _list_steps(left)]
    return list(dict.fromkeys(equations))


def _list_steps(expressions: Iterable[str]) -> list[tuple[str, str]]:
    """Each operation that can be worked out, as an equation, with what is left of its expression."""
    steps = []
    for expression in expressions:
        for ready in _READY.finditer(expression):
            value = _compute(ready[0])
            rest = f"{expression[: ready.start()]}{value}{expression[ready.end() :]}"
            # A value needs no parentheses.
            rest = rest.replace(f"({value})", str(value))
            steps.append((f"{ready[0]} = {value}", rest))
    return steps


def _compute(text: str) -> bool:
    words = text.strip("()").split()
    if words[0] == "not":
        return words[1] == "False"

    left, operator, right = words
    if operator == "<":
        return int(left) < int(right)
    if operator == ">":
        return int(left) > int(right)
    values = (left == "True", right == "True")
    return all(values) if operator == "and" else any(values)
