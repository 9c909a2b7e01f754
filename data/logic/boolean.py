"""Truth values: a tree of not, and, or over constants and comparisons."""

import random
from typing import TypeAlias

from data.logic.problems import TRUE_FALSE, make_problem
from data.problem import Problem

Tree: TypeAlias = "str | tuple[str, Tree] | tuple[str, Tree, Tree]"

# How often a leaf is a comparison, by level: constants alone give only ten problems at level 1.
COMPARISONS = {1: 0.5, 2: 0.25, 3: 0.1, 4: 0.1, 5: 0.1}
# "and" and "or" twice as often as "not".
OPERATORS = ("not", "and", "and", "or", "or")
TEXTS = (
    "What is {}?",
    "Evaluate {}.",
    "True or False: what is the value of {}?",
    "Find the truth value of {}.",
)


def draw_boolean(rng: random.Random, level: int) -> Problem | None:
    """One expression of ``level`` operators."""
    operator = rng.choice(OPERATORS)
    value = rng.random() < 0.5

    # Until this operator gives this value: else an outer "or" would mean True three times in four.
    while True:
        tree = _draw_tree(rng, level, COMPARISONS[level])
        lines: list[str] = []
        if _evaluate(tree, lines) == value and tree[0] == operator:
            break

    text = _write_tree(tree)
    # A double negation is hard to read.
    if "not (not" in text:
        return None
    question = rng.choice(TEXTS).format(text)
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
    a, b = rng.sample(range(1, 10), 2)
    return f"({a} {rng.choice('<>')} {b})"


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
        a, sign, b = tree.strip("()").split()
        value = int(a) < int(b) if sign == "<" else int(a) > int(b)
        text = tree
    elif len(tree) == 2:
        inner = _evaluate(tree[1], lines)
        value = not inner
        text = f"not {inner}"
    else:
        left = _evaluate(tree[1], lines)
        right = _evaluate(tree[2], lines)
        value = (left and right) if tree[0] == "and" else (left or right)
        text = f"{left} {tree[0]} {right}"

    lines.append(f"{text} = {value}")
    return value
