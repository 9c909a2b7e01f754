"""Does the answer stand in the state before it is written?

Nano has learnt to write the steps of a sum. Before the first step, and after each one, a linear probe is to tell the
final answer from the states of the last token, on problems that neither nano nor the probe has read. The states of the
same model with random weights tell how much of that is only the question, passed on. Where all steps are written and
the answer comes next, the probe must find it: else it could not have found it anywhere. Answers are of one digit, so
one token: of a longer one only the first digit need be there when it begins.

What is written counts for more or less than that, so a step is changed too: the number that step 1 came to, and in
another copy a number of the question that step 1 has used up already.

Source: probes with shuffled labels: J. Hewitt and P. Liang 2019, arXiv 1909.03368.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from data.datasets import load
from data.problem import Problem
from eval.studies import Findings, describe, estimate_mean, estimate_share, make_line
from pipeline.config import Count
from pipeline.generate import decode_text, find_stop_ids, generate
from pipeline.prompts import encode_prompt, encode_text
from pipeline.studies.states import compute_states, probe
from pipeline.studies.study import Base, Level, StudySettings

CLAIM = "The answer stands in the model's state before it is written: it plans ahead."
LIMITS = (
    "It says how often a linear probe finds the answer where the steps begin; what it does not find may be there in "
    "another form. That a changed step changes the answer says what the base goes by, not what it could do."
)
NEEDS = ""


class Settings(StudySettings):
    """The study's recipe."""

    drawn: Count
    tested: Count
    levels: Annotated[list[Annotated[Level, Field(ge=2)]], Field(min_length=1)]
    penalty: float
    max_new_tokens: Count


TRAINED, UNTRAINED = "trained", "random weights"
SHUFFLED, FREQUENT = "shuffled answers", "most frequent answer"


def measure(settings: Settings, base: Base) -> Findings:
    """Measure by level what probes find, and what a changed number changes."""
    model, tokenizer = base.load()
    torch.manual_seed(settings.seed)
    untrained = type(model)(model.config).eval()
    rng = np.random.default_rng(settings.seed)

    # (way, level, step) to an array (problems,)
    correct: dict[tuple[str, int, int], np.ndarray] = {}
    tested: list[Problem] = []
    for level in settings.levels:
        fitting = take_short(load("sums_v1", "train", settings.drawn, levels=str(level)).problems)
        testing = take_short(load("sums_v1", "dev", levels=str(level)).problems)[: settings.tested]
        tested += testing
        known = np.array([int(problem.answer) for problem in fitting])
        answers = np.array([int(problem.answer) for problem in testing])

        models = {TRAINED: model, UNTRAINED: untrained}
        for (way, each), step in itertools.product(models.items(), range(level + 1)):
            states = compute_step_states(each, tokenizer, [*fitting, *testing], step, f"planning: {way}")
            correct[way, level, step] = try_probe(states, known, answers, settings)
            if (way, step) == (TRAINED, 0):
                correct[SHUFFLED, level, 0] = try_probe(states, rng.permutation(known), answers, settings)
        correct[FREQUENT, level, 0] = answers == np.bincount(known).argmax()

    patched = patch(model, tokenizer, tested, settings)
    return summarize(settings.levels, correct, patched)


def take_short(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems with an answer of one digit."""
    return [problem for problem in problems if len(problem.answer) == 1]


def compute_step_states(model, tokenizer, problems: Sequence[Problem], step: int, label: str) -> np.ndarray:
    """Return the states (problems, size) of all layers at the last token after some steps of the right solution."""
    rows = []
    for problem in problems:
        lines = (problem.rationale or "").split("\n")
        text = "".join(f"{line}\n" for line in lines[:step])
        if step == len(lines):
            text += "\\boxed{"
        rows.append(encode_prompt(tokenizer, problem, "cot") + encode_text(tokenizer, text))
    states = compute_states(model, rows, label)
    return states.reshape(len(rows), -1)


def try_probe(states: np.ndarray, known: np.ndarray, answers: np.ndarray, settings: Settings) -> np.ndarray:
    """Return whether a probe, fitted on the states of problems with known answers, tells the answers of the others."""
    count = len(known)
    predicted = probe(states[:count], np.eye(10)[known], states[count:], settings.penalty)
    return predicted.argmax(-1) == answers


# Changed numbers


@dataclass(frozen=True)
class Patch:
    """What came of changed numbers, an array (problems,) each.

    ``follows``: the answer is what follows from the changed result of step 1. ``unrelated``: another answer than
    without a change, where a number of the question was changed that step 1 had used.
    """

    follows: np.ndarray
    unrelated: np.ndarray


def patch(model, tokenizer, problems: Sequence[Problem], settings: Settings) -> Patch:
    """Let the model go on after step 1, as it is and with one number changed."""
    plain, result, used, expected = [], [], [], []
    for problem in problems:
        step = (problem.rationale or "").split("\n")[0]
        left, _, value = step.partition(" = ")

        first = int(left[0])
        other = str(first + 1 if first < 9 else first - 1)
        question = problem.question.replace(str(first), other, 1)

        plain.append(encode_start(tokenizer, problem, step))
        result.append(encode_start(tokenizer, problem, f"{left} = {int(value) + 1}"))
        used.append(encode_start(tokenizer, replace(problem, question=question), step))
        # All that follows adds to it or takes away from it.
        expected.append(f"\\boxed{{{int(problem.answer) + 1}}}")

    stops = find_stop_ids(model, tokenizer)
    texts = []
    for prompts in (plain, result, used):
        sequences = generate(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens)
        texts.append([decode_text(tokenizer, sequence.ids, stops) for sequence in sequences])

    before, after, unrelated = texts
    return Patch(
        follows=np.array([answer in text for answer, text in zip(expected, after, strict=True)]),
        unrelated=np.array([a.split("\n")[-1] != b.split("\n")[-1] for a, b in zip(before, unrelated, strict=True)]),
    )


def encode_start(tokenizer, problem: Problem, step: str) -> list[int]:
    """Return the prompt and a first step."""
    return encode_prompt(tokenizer, problem, "cot") + encode_text(tokenizer, f"{step}\n")


def summarize(levels: Sequence[int], correct: dict[tuple[str, int, int], np.ndarray], patched: Patch) -> Findings:
    """Return what it comes to before the first step, of all levels together."""
    at_start = {}
    for way in (TRAINED, UNTRAINED, SHUFFLED, FREQUENT):
        at_start[way] = np.concatenate([correct[way, level, 0] for level in levels]).astype(float)

    at_end = np.concatenate([correct[TRAINED, level, level] for level in levels])

    lines = []
    for way in (TRAINED, UNTRAINED):
        for level in levels:
            points = {step: correct[way, level, step] for step in range(level + 1)}
            lines.append(make_line(f"{way}, {level} steps", points))

    follows = estimate_share("the answer followed in", patched.follows)
    return Findings(
        n=len(at_start[TRAINED]),
        unit="problems",
        effects=[
            estimate_mean(
                "answers told before the first step, above random weights", at_start[TRAINED] - at_start[UNTRAINED]
            )
        ],
        controls=[
            estimate_mean("answers missed where all steps are written", ~at_end),
            # Noise may do worse than the best guess.
            estimate_mean(
                "fitted on shuffled answers, above the most frequent answer",
                at_start[SHUFFLED] - at_start[FREQUENT],
                may_fall=True,
            ),
            estimate_mean("answers that change with a number of the question that was used already", patched.unrelated),
        ],
        lines=lines,
        x_label="steps that are written",
        y_label="answers that the probe tells",
        notes=[f"Where the number that step 1 came to was raised by one, {describe(follows)}."],
    )
