"""arithmetic_v1: whole-number problems of one to four operations, each with its worked trace.

A problem is drawn as a list of *forms* ("a", "v+a", "v-a*b" ...), where v is the value so far. The forms
and their numbers give an expression tree, and the tree gives the program, the trace and the answer, so
that an expression, a chain of instructions and a word problem are worked in the same way.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from data.records import Problem
from data.stories import WORLDS, slots

Tree: TypeAlias = "int | tuple[str, Tree, Tree]"
Step: TypeAlias = tuple[str, int, int, int]

MOST_WORDS = 45  # of a question, and of a trace: tokens are what a run costs
OPERATIONS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}
PARENTHESES = {1: 0.0, 2: 0.0, 3: 0.2, 4: 0.4, 5: 0.5}  # how often an expression that needs them is kept


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return ("expression", "word") if level <= 2 else ("chain", "expression", "word")


@dataclass(frozen=True)
class Sizes:
    """The numbers of one level, as inclusive ranges; ``each`` is the larger factor of a drawn product."""

    first: tuple[int, int]
    addend: tuple[int, int]
    factor: tuple[int, int]
    each: tuple[int, int]
    most: int


SIZES = {
    1: Sizes((1, 10), (1, 10), (2, 10), (2, 10), 100),
    2: Sizes((10, 99), (10, 99), (2, 9), (11, 99), 900),
    3: Sizes((5, 60), (3, 60), (2, 9), (3, 20), 300),
    4: Sizes((5, 99), (5, 99), (2, 9), (4, 30), 700),
    5: Sizes((20, 300), (15, 400), (3, 25), (12, 60), 9999),
}


# From forms to numbers


def _operations(form: str) -> int:
    return sum(form.count(op) for op in "+-*/")


def _numbers(rng: random.Random, form: str, value: int, then: str, level: int) -> tuple[int, ...] | None:
    """The numbers a (and b) of a form applied to ``value``; None where no number fits."""
    sizes = SIZES[level]
    if form == "a":
        if then == "v/a":  # a first number that can be divided
            divisor = rng.randint(2, 10)
            return (divisor * rng.randint(2, 10 if level == 1 else max(10, 99 // divisor)),)
        return (rng.randint(*sizes.first),)
    if "a*b" in form:
        return rng.randint(*sizes.factor), rng.randint(*sizes.each)
    low, high = sizes.addend
    if form == "v-a":
        high = min(high, value)
    elif form == "a-v":
        low, high = value + 1, high if level <= 2 else value + high
    elif form == "v*a":
        low, high = sizes.factor
    elif form == "v/a":
        divisors = [n for n in range(2, 11) if value % n == 0 and value // n > 1] if value <= 300 else []
        return (rng.choice(divisors),) if divisors else None
    return (rng.randint(low, high),) if low <= high else None


def _grow(tree: Tree, form: str, numbers: tuple[int, ...]) -> Tree:
    """The tree after one more form."""
    a = numbers[0]
    if form == "a":
        return a
    if form == "a-v":
        return ("-", a, tree)
    operand: Tree = a
    if "a*b" in form:
        operand = ("*", a, numbers[1])
        if form == "a*b":
            return operand
    return (form[1], tree, operand)


def program_of(tree: Tree) -> list[Step]:
    """The operations of a tree in the order of computation, as (op, left, right, result)."""
    if isinstance(tree, int):
        return []
    op, left, right = tree
    steps = program_of(left) + program_of(right)
    a, b = value_of(left), value_of(right)
    return [*steps, (op, a, b, value_of(tree))]


def value_of(tree: Tree) -> int:
    """The value of a tree; every division in a tree is exact."""
    if isinstance(tree, int):
        return tree
    op, left, right = tree[0], value_of(tree[1]), value_of(tree[2])
    if op == "/":
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[op]


def _draw(rng: random.Random, forms: Sequence[str], level: int) -> tuple[Tree, list[tuple[int, ...]]] | None:
    """A tree of these forms and the numbers of each; None where the numbers drawn lead nowhere."""
    tree: Tree = 0
    drawn = []
    for form, then in zip(forms, [*forms[1:], ""], strict=True):
        numbers = _numbers(rng, form, value_of(tree), then, level)
        if numbers is None:
            return None
        drawn.append(numbers)
        tree = _grow(tree, form, numbers)
        least = 2 if then else 0  # nothing is left to work with after 0
        if any(not 0 <= step[3] <= SIZES[level].most for step in program_of(tree)) or value_of(tree) < least:
            return None
    return tree, drawn


def _compose(rng: random.Random, count: int, weights: dict[str, int]) -> list[str]:
    """A first number and forms of ``count`` operations together."""
    forms = ["a"]
    while count:
        fitting = {form: weight for form, weight in weights.items() if _operations(form) <= count}
        forms.append(rng.choices(list(fitting), list(fitting.values()))[0])
        count -= _operations(forms[-1])
    return forms


# Traces


def _round(number: int) -> int:
    """A number without its trailing zeros."""
    while number and number % 10 == 0:
        number //= 10
    return number


def _places(number: int) -> list[int]:
    """The parts of a number, one a nonzero digit: 305 is 300 and 5."""
    digits = str(number)
    return [int(digit) * 10 ** (len(digits) - place) for place, digit in enumerate(digits, 1) if digit != "0"]


def multiplication(a: int, b: int) -> list[str]:
    """The equations of a product: one where the times table does, else place by place with a running sum."""
    small, large = sorted((_round(a), _round(b)))
    if large < 10 or small <= 1 or (small == 2 and large < 100):
        return [f"{a} * {b} = {a * b}"]
    small, large = sorted((a, b))
    split, kept = (small, large) if _round(small) >= 10 else (large, small)
    lines: list[str] = []
    total = 0
    for part in _places(split):
        lines += multiplication(kept, part) if split == small else multiplication(part, kept)
        if total:
            lines.append(f"{total} + {part * kept} = {total + part * kept}")
        total += part * kept
    return lines


def difference(a: int, b: int) -> list[str]:
    """The equations of a difference, one a place of what is taken away."""
    lines = []
    for part in _places(b) or [0]:
        lines.append(f"{a} - {part} = {a - part}")
        a -= part
    return lines


def trace_of(program: Sequence[Step], labels: Sequence[str] = ()) -> str:
    """The program one equation a line; a label names the result of its operation."""
    lines: list[str] = []
    for index, (op, left, right, result) in enumerate(program):
        lines += multiplication(left, right) if op == "*" else [f"{left} {op} {right} = {result}"]
        if labels:
            lines[-1] = f"{labels[index]}: {lines[-1]}"
    return "\n".join(lines)


def canonical(tree: Tree) -> str:
    """A tree as text, fully parenthesised, the operands of + and * in a fixed order."""
    if isinstance(tree, int):
        return str(tree)
    op, *sides = tree
    texts = [canonical(side) for side in sides]
    if op in "+*":
        texts.sort(key=lambda text: (len(text), text))
    return f"({texts[0]}{op}{texts[1]})"


# Expressions and chains

EXPRESSION_WEIGHTS = {"v+a": 4, "v-a": 3, "v*a": 2, "v/a": 1, "a-v": 1, "v+a*b": 3, "v-a*b": 2}
SINGLE_WEIGHTS = {"v+a": 8, "v-a": 7, "v*a": 3, "v/a": 2}
CHAIN_WEIGHTS = {"v+a": 4, "v-a": 4, "v*a": 3, "v/a": 2}

EXPRESSION_TEXTS = (
    "What is {}?",
    "Calculate {}.",
    "Work out {}.",
    "How much is {}?",
    "Find the value of {}.",
    "{} = ?",
)

CHAIN_VERBS = {
    "+": ("add {}", "increase the number by {}"),
    "-": ("subtract {}", "take away {}"),
    "*": ("multiply by {}",),
    "/": ("divide by {}",),
}
CHAIN_ENDS = ("What is the result?", "What number do you get?", "What is the final number?")


def _infix(tree: Tree) -> str:
    """A tree as it is written by hand, with the parentheses it needs and no more."""
    if isinstance(tree, int):
        return str(tree)
    op, left, right = tree
    rank = {"+": 1, "-": 1, "*": 2, "/": 2}

    def side(child: Tree, lowest: int) -> str:
        bare = isinstance(child, int) or rank[child[0]] >= lowest
        return _infix(child) if bare else f"({_infix(child)})"

    return f"{side(left, rank[op])} {op} {side(right, rank[op] + 1)}"


def _swapped(rng: random.Random, tree: Tree) -> Tree:
    """The tree with the sides of + and * exchanged at random, where that leaves no sum on the right of a +."""
    if isinstance(tree, int):
        return tree
    op, left, right = tree[0], _swapped(rng, tree[1]), _swapped(rng, tree[2])
    may = op == "*" or (op == "+" and (isinstance(left, int) or left[0] in "*/"))
    return (op, right, left) if may and rng.random() < 0.4 else (op, left, right)


def _products_meet(tree: Tree) -> bool:
    """Whether * or / works on the result of * or /: written in a row, readers differ on the order."""
    if isinstance(tree, int):
        return False
    return any(
        _products_meet(side) or (tree[0] in "*/" and not isinstance(side, int) and side[0] in "*/") for side in tree[1:]
    )


def _undoes(numbers: list[tuple[int, ...]], level: int) -> bool:
    """Whether a number follows itself, as in 29 - 21 + 21; single facts such as 7 * 7 are welcome."""
    flat = [n for group in numbers for n in group]
    return level > 1 and any(a == b for a, b in itertools.pairwise(flat))


def _expression(rng: random.Random, level: int) -> Problem | None:
    weights = SINGLE_WEIGHTS if OPERATIONS[level] == 1 else EXPRESSION_WEIGHTS
    drawn = _draw(rng, _compose(rng, OPERATIONS[level], weights), level)
    if drawn is None or _products_meet(drawn[0]) or _undoes(drawn[1], level):
        return None
    tree = _swapped(rng, drawn[0])
    text = _infix(tree)
    if "(" in text and rng.random() >= PARENTHESES[level]:
        return None
    return _problem("expression", level, rng.choice(EXPRESSION_TEXTS).format(text), tree, f"expr:{canonical(tree)}")


def _chain(rng: random.Random, level: int) -> Problem | None:
    forms = _compose(rng, OPERATIONS[level], CHAIN_WEIGHTS)
    drawn = _draw(rng, forms, level)
    if drawn is None or _undoes(drawn[1], level):
        return None
    tree, numbers = drawn
    steps = [rng.choice(CHAIN_VERBS[form[1]]).format(n) for form, (n,) in zip(forms[1:], numbers[1:], strict=True)]
    first = numbers[0][0]
    match rng.randrange(3):
        case 0:
            body = " ".join([f"Start with {first}.", *(f"{step.capitalize()}." for step in steps)])
        case 1:
            body = f"Take {first}, {', '.join(steps[:-1])}, then {steps[-1]}."
        case _:
            body = " ".join([f"Begin with {first}.", f"First {steps[0]}.", *(f"Then {step}." for step in steps[1:])])
    return _problem("chain", level, f"{body} {rng.choice(CHAIN_ENDS)}", tree, f"expr:{canonical(tree)}")


# Word problems


def _word(rng: random.Random, level: int) -> Problem | None:
    world = rng.choice(WORLDS)
    middle = rng.sample(world.middle, rng.randint(0, min(4, len(world.middle))))
    parts = [rng.choice(world.begin), *middle, rng.choice(world.ask)]
    forms = [part.form for part in parts if part.form]
    if sum(map(_operations, forms)) != OPERATIONS[level]:
        return None
    drawn = _draw(rng, forms, level)
    if drawn is None:
        return None
    tree, numbers = drawn
    if any(1 in group for group in numbers):  # "1 apples"
        return None
    told = slots(rng)
    sentences, labels = [], []
    for part, group in zip(parts, [*numbers, ()], strict=False):
        told |= dict(zip("ab", group, strict=False))
        told["times"] = "twice" if group[:1] == (2,) else f"{told['a']} times"
        sentences.append(rng.choice(part.texts).format(**told))
        labels += [label.format(**told) for label in part.labels]
        told |= {"now": part.now, "has": "now has" if part in middle else "has"}
        if part.passes_on:  # from here on by name, since "she" could be either
            told |= dict.fromkeys(("name", "he", "He", "him"), told["other"]) | {"his": told["other_his"]}
    key = f"word:{world.id}/{','.join(p.id for p in parts)}:{','.join(str(n) for group in numbers for n in group)}"
    return _problem("word", level, " ".join(sentences), tree, key, [label[0].upper() + label[1:] for label in labels])


# One problem


def _problem(
    family: str, level: int, question: str, tree: Tree, key: str, labels: Sequence[str] = ()
) -> Problem | None:
    program = program_of(tree)
    trace = trace_of(program, labels)
    if max(len(question.split()), len(trace.split())) > MOST_WORDS:
        return None
    return Problem(
        id="",
        question=question,
        answer=str(value_of(tree)),
        kind="number",
        family=family,
        level=level,
        rationale=trace,
        extra={"key": key, "program": [list(step) for step in program]},
    )


def make(rng: random.Random, level: int, family: str | None = None) -> Problem:
    """One problem without an id; the family is drawn where none is asked for."""
    family = family or rng.choice(families(level))
    draw = {"expression": _expression, "chain": _chain, "word": _word}[family]
    while (problem := draw(rng, level)) is None:
        pass
    return problem
