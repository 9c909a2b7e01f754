"""Expressions: "What is 3 + 4 * 5?"."""

import random

from data.arithmetic.forms import OPERATIONS, compose_forms, draw_tree
from data.arithmetic.trees import Tree, make_problem, write_canonical, write_infix
from data.problem import Problem

# How often each form is drawn, relative to the others.
WEIGHTS = {
    "v+a": 4,
    "v-a": 3,
    "v*a": 2,
    "v/a": 1,
    "a-v": 1,
    "v+a*b": 3,
    "v-a*b": 2,
}
SINGLE_WEIGHTS = {"v+a": 8, "v-a": 7, "v*a": 3, "v/a": 2}

# How often an expression that needs parentheses is kept, by level.
PARENTHESES = {1: 0.0, 2: 0.0, 3: 0.2, 4: 0.4, 5: 0.5}
SWAPS = 0.4  # how often the sides of + and * are exchanged

TEXTS = (
    "What is {}?",
    "Calculate {}.",
    "Work out {}.",
    "How much is {}?",
    "Find the value of {}.",
    "{} = ?",
)


def draw_expression(rng: random.Random, level: int) -> Problem | None:
    """One expression; None where the draw leads nowhere."""
    weights = SINGLE_WEIGHTS if OPERATIONS[level] == 1 else WEIGHTS
    forms = compose_forms(rng, OPERATIONS[level], weights)

    draw = draw_tree(rng, forms, level)
    if draw is None or _has_nested_products(draw.tree):
        return None
    # Single facts such as 7 * 7 are welcome.
    if level > 1 and draw.repeats_number():
        return None

    # As drawn, the value so far always stands on the left.
    tree = _swap_sides(rng, draw.tree)
    text = write_infix(tree)
    if "(" in text and rng.random() >= PARENTHESES[level]:
        return None

    question = rng.choice(TEXTS).format(text)
    key = f"expr:{write_canonical(tree)}"
    return make_problem("expression", level, question, tree, key)


def _has_nested_products(tree: Tree) -> bool:
    """Whether * or / works on the result of * or /: written in a row, readers differ on the order."""
    if isinstance(tree, int):
        return False

    for side in tree[1:]:
        is_product = not isinstance(side, int) and side[0] in "*/"
        if _has_nested_products(side) or (is_product and tree[0] in "*/"):
            return True
    return False


def _swap_sides(rng: random.Random, tree: Tree) -> Tree:
    """The tree with the sides of + and * exchanged at random, where that leaves no sum on the right of a +."""
    if isinstance(tree, int):
        return tree

    op = tree[0]
    left = _swap_sides(rng, tree[1])
    right = _swap_sides(rng, tree[2])

    left_is_sum = not isinstance(left, int) and left[0] in "+-"
    can_swap = op == "*" or (op == "+" and not left_is_sum)
    if can_swap and rng.random() < SWAPS:
        return (op, right, left)
    return (op, left, right)
