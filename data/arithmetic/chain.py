"""Chains of instructions: "Start with 3. Add 4. Multiply by 5. What is the result?"."""

import random

from data.arithmetic.forms import OPERATIONS, compose_forms, draw_tree
from data.arithmetic.trees import make_problem, write_canonical
from data.problem import Problem

# How often each form is drawn, relative to the others.
WEIGHTS = {"v+a": 4, "v-a": 4, "v*a": 3, "v/a": 2}

# Drawn anew for each step.
VERBS = {
    "+": ("add {}", "increase the number by {}"),
    "-": ("subtract {}", "take away {}"),
    "*": ("multiply by {}",),
    "/": ("divide by {}",),
}
ENDS = ("What is the result?", "What number do you get?", "What is the final number?")


def draw_chain(rng: random.Random, level: int) -> Problem | None:
    """One chain; None where the draw leads nowhere."""
    forms = compose_forms(rng, OPERATIONS[level], WEIGHTS)
    draw = draw_tree(rng, forms, level)
    if draw is None or draw.repeats_number():
        return None

    # Each form of a chain has one number.
    first, *numbers = draw.list_numbers()
    steps = []
    for form, number in zip(forms[1:], numbers, strict=True):
        op = form[1]
        verb = rng.choice(VERBS[op])
        steps.append(verb.format(number))

    wording = rng.randrange(3)
    body = _write_body(wording, first, steps)
    question = f"{body} {rng.choice(ENDS)}"

    # The same key as an expression's, so that both fall into one split.
    key = f"expr:{write_canonical(draw.tree)}"
    return make_problem("chain", level, question, draw.tree, key)


def _write_body(wording: int, first: int, steps: list[str]) -> str:
    if wording == 0:
        sentences = [f"{step.capitalize()}." for step in steps]
        return " ".join([f"Start with {first}.", *sentences])

    if wording == 1:
        return f"Take {first}, {', '.join(steps[:-1])}, then {steps[-1]}."

    sentences = [f"Then {step}." for step in steps[1:]]
    return " ".join([f"Begin with {first}.", f"First {steps[0]}.", *sentences])
