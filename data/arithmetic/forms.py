"""From forms to numbers: how the numbers of a problem are drawn so that every result stays small and whole.

A problem is drawn as a list of *forms* ("a", "v+a", "v-a*b" ...), where v is the value so far. The forms and their
numbers give an expression tree, and the tree gives the program, the solution and the answer. So an expression, a chain
of instructions and a word problem are worked in the same way.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.arithmetic.trees import Tree, compute_value, list_operations

Numbers = tuple[int, ...]
Range = tuple[int, int]  # inclusive

# How many operations a problem has, by level.
OPERATIONS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}


@dataclass(frozen=True)
class Sizes:
    """The numbers of one level; ``large_factor`` is the larger factor of a drawn product."""

    first: Range
    addend: Range
    factor: Range
    large_factor: Range
    max_result: int


# Levels 3 and 4 have more operations than level 2, and smaller numbers.
SIZES = {
    1: Sizes(
        first=(1, 10),
        addend=(1, 10),
        factor=(2, 10),
        large_factor=(2, 10),
        max_result=100,
    ),
    2: Sizes(
        first=(10, 99),
        addend=(10, 99),
        factor=(2, 9),
        large_factor=(11, 99),
        max_result=900,
    ),
    3: Sizes(
        first=(5, 60),
        addend=(3, 60),
        factor=(2, 9),
        large_factor=(3, 20),
        max_result=300,
    ),
    4: Sizes(
        first=(5, 99),
        addend=(5, 99),
        factor=(2, 9),
        large_factor=(4, 30),
        max_result=700,
    ),
    5: Sizes(
        first=(20, 300),
        addend=(15, 400),
        factor=(3, 25),
        large_factor=(12, 60),
        max_result=9999,
    ),
}


@dataclass(frozen=True)
class Draw:
    """A tree, and the numbers of each form that it was made of."""

    tree: Tree
    numbers: list[Numbers]

    def list_numbers(self) -> list[int]:
        """All numbers, in the order of the forms."""
        return list(itertools.chain(*self.numbers))

    def repeats_number(self) -> bool:
        """Whether a number follows itself, as in 29 - 21 + 21."""
        return any(a == b for a, b in itertools.pairwise(self.list_numbers()))


def count_operations(form: str) -> int:
    """How many operations a form has."""
    return sum(form.count(op) for op in "+-*/")


def compose_forms(rng: random.Random, count: int, weights: dict[str, int]) -> list[str]:
    """A first number and forms of ``count`` operations together."""
    forms = ["a"]
    while count:
        fitting = [form for form in weights if count_operations(form) <= count]
        fitting_weights = [weights[form] for form in fitting]
        forms += rng.choices(fitting, fitting_weights)
        count -= count_operations(forms[-1])
    return forms


def draw_tree(rng: random.Random, forms: Sequence[str], level: int) -> Draw | None:
    """A tree of these forms; None where the numbers that were drawn lead nowhere."""
    tree: Tree = 0
    numbers_so_far = []

    for index, form in enumerate(forms):
        is_last = index == len(forms) - 1
        next_form = "" if is_last else forms[index + 1]

        numbers = _draw_numbers(rng, form, compute_value(tree), next_form, level)
        if numbers is None:
            return None
        numbers_so_far.append(numbers)
        tree = _grow_tree(tree, form, numbers)

        # Nothing is left to work with after 0 or 1.
        min_value = 0 if is_last else 2
        if compute_value(tree) < min_value or not _has_small_results(tree, level):
            return None
    return Draw(tree, numbers_so_far)


def _has_small_results(tree: Tree, level: int) -> bool:
    results = [result for _, _, _, result in list_operations(tree)]
    return all(0 <= result <= SIZES[level].max_result for result in results)


def _draw_numbers(
    rng: random.Random,
    form: str,
    value: int,
    next_form: str,
    level: int,
) -> Numbers | None:
    """The numbers a (and b) of a form applied to ``value``; None where no number fits."""
    sizes = SIZES[level]
    if form == "a" and next_form == "v/a":
        return (_draw_dividend(rng, level),)
    if form == "a":
        return (rng.randint(*sizes.first),)
    if "a*b" in form:
        factor = rng.randint(*sizes.factor)
        return factor, rng.randint(*sizes.large_factor)
    if form == "v/a":
        return _draw_divisor(rng, value)

    low, high = sizes.addend
    if form == "v-a":
        # No result is negative.
        high = min(high, value)
    elif form == "a-v":
        low = value + 1
        # With more operations the value may be above all addends, and nothing would fit.
        if level > 2:
            high += value
    elif form == "v*a":
        low, high = sizes.factor
    return (rng.randint(low, high),) if low <= high else None


def _draw_dividend(rng: random.Random, level: int) -> int:
    """A first number that can be divided."""
    divisor = rng.randint(2, 10)
    max_quotient = 10 if level == 1 else max(10, 99 // divisor)
    return divisor * rng.randint(2, max_quotient)


def _draw_divisor(rng: random.Random, value: int) -> Numbers | None:
    # A division is to be done in one step.
    if value > 300:
        return None
    divisors = []
    for divisor in range(2, 11):
        quotient, remainder = divmod(value, divisor)
        if quotient > 1 and not remainder:
            divisors.append(divisor)
    return (rng.choice(divisors),) if divisors else None


def _grow_tree(tree: Tree, form: str, numbers: Numbers) -> Tree:
    """The tree after one more form."""
    a = numbers[0]
    if form == "a":
        return a
    if form == "a-v":
        return ("-", a, tree)

    operand: Tree = ("*", a, numbers[1]) if "a*b" in form else a
    if form == "a*b":
        return operand
    return (form[1], tree, operand)
