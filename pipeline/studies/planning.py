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
from pydantic import AfterValidator, Field

from data.dataset_spec import Take
from data.datasets import load
from data.problem import Problem
from eval.studies import Findings, describe, estimate_mean, estimate_share, make_line
from pipeline.generate import decode_text, find_stop_ids, generate
from pipeline.prompts import encode_prompt, encode_text
from pipeline.settings import Count, Positive, refuse_twice
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

    drawn: Take
    tested: Count
    levels: Annotated[list[Annotated[Level, Field(ge=2)]], Field(min_length=1), AfterValidator(refuse_twice)]
    penalty: Positive
    max_new_tokens: Count


TRAINED, UNTRAINED = "trained", "random weights"
SHUFFLED, FREQUENT = "shuffled answers", "most frequent answer"


def measure(settings: Settings, base: Base) -> Findings:
    """Measure by level what probes find, and what a changed number changes."""
    model, tokenizer = base.load()
    # Its states hold the question, passed on by layers that have learnt nothing.
    torch.manual_seed(settings.seed)
    untrained = type(model)(model.config).to(model.device, model.dtype).eval()
    rng = np.random.default_rng(settings.seed)

    # (way, level, step) to an array (problems,)
    correct: dict[tuple[str, int, int], np.ndarray] = {}
    tested: list[Problem] = []
    for level in settings.levels:
        # Nano has read train problems, and no problem of dev: what a probe finds there was not learnt by heart.
        drawn = load("sums_v1", "train", settings.drawn, levels=str(level)).problems
        unread = load("sums_v1", "dev", levels=str(level)).problems
        fitting = take_short(drawn)
        testing = take_short(unread)[: settings.tested]
        tested += testing

        known = np.array([int(problem.answer) for problem in fitting])
        answers = np.array([int(problem.answer) for problem in testing])
        problems = [*fitting, *testing]

        models = {TRAINED: model, UNTRAINED: untrained}
        for way, step in itertools.product(models, range(level + 1)):
            states = compute_step_states(models[way], tokenizer, problems, step, f"planning: {way}")
            correct[way, level, step] = try_probe(states, known, answers, settings)

            if (way, step) == (TRAINED, 0):
                shuffled = rng.permutation(known)
                correct[SHUFFLED, level, 0] = try_probe(states, shuffled, answers, settings)

        # What a probe can tell that has learnt only how often each answer comes.
        guess = np.bincount(known).argmax()
        correct[FREQUENT, level, 0] = answers == guess

    patched = patch(model, tokenizer, tested, settings)
    return summarize(settings.levels, correct, patched)


def take_short(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems with an answer of one digit."""
    return [problem for problem in problems if len(problem.answer) == 1]


def compute_step_states(
    model,
    tokenizer,
    problems: Sequence[Problem],
    step: int,
    label: str,
) -> np.ndarray:
    """Return the states (problems, size) of all layers at the last token after some steps of the right solution."""
    rows = []
    for problem in problems:
        rationale = problem.rationale or ""
        lines = rationale.split("\n")
        text = "".join(f"{line}\n" for line in lines[:step])
        # Here the answer is the very next token, so the probe must find it.
        if step == len(lines):
            text += "\\boxed{"

        prompt = encode_prompt(tokenizer, problem, "cot")
        rows.append(prompt + encode_text(tokenizer, text))

    # One probe of all layers: in which the answer would stand is not known.
    states = compute_states(model, rows, label)
    return states.reshape(len(rows), -1)


def try_probe(
    states: np.ndarray,
    known: np.ndarray,
    answers: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """Return whether a probe, fitted on the states of problems with known answers, tells the answers of the others."""
    count = len(known)
    fitted = states[:count]
    others = states[count:]

    # Ten classes: as numbers, answers were missed even where they come next (docs/studies.md).
    digits = np.eye(10)[known]
    predicted = probe(fitted, digits, others, settings.penalty)
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
    plain, result, used = [], [], []
    expected = []
    for problem in problems:
        rationale = problem.rationale or ""
        step = rationale.split("\n")[0]
        left, _, value = step.partition(" = ")
        raised = f"{left} = {int(value) + 1}"
        # Step 1 stands as it was, so nothing that is left to do goes by this number.
        first = int(left[0])
        misread = change_first_number(problem, first)

        plain.append(encode_start(tokenizer, problem, step))
        result.append(encode_start(tokenizer, problem, raised))
        used.append(encode_start(tokenizer, misread, step))
        # All that follows adds to it or takes away from it.
        expected.append(f"\\boxed{{{int(problem.answer) + 1}}}")

    before = write_on(model, tokenizer, plain, settings)
    raised_texts = write_on(model, tokenizer, result, settings)
    misread_texts = write_on(model, tokenizer, used, settings)

    follows = []
    unrelated = []
    for i, answer in enumerate(expected):
        follows.append(answer in raised_texts[i])

        # Of the answer alone, which is the last line: steps may be written in other ways.
        last = before[i].split("\n")[-1]
        misread_last = misread_texts[i].split("\n")[-1]
        unrelated.append(last != misread_last)
    return Patch(np.array(follows), np.array(unrelated))


def change_first_number(problem: Problem, first: int) -> Problem:
    """Return the problem with the first number of its question changed by one."""
    # It stays a number of one digit, as nano knows them.
    other = first + 1 if first < 9 else first - 1
    question = problem.question.replace(str(first), str(other), 1)
    return replace(problem, question=question)


def write_on(model, tokenizer, prompts: list[list[int]], settings: Settings) -> list[str]:
    """Return what the model writes after each prompt."""
    stops = find_stop_ids(model, tokenizer)
    sequences = generate(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens)
    return [decode_text(tokenizer, sequence.ids, stops) for sequence in sequences]


def encode_start(tokenizer, problem: Problem, step: str) -> list[int]:
    """Return the prompt and a first step."""
    prompt = encode_prompt(tokenizer, problem, "cot")
    return prompt + encode_text(tokenizer, f"{step}\n")


def summarize(
    levels: Sequence[int],
    correct: dict[tuple[str, int, int], np.ndarray],
    patched: Patch,
) -> Findings:
    """Return what it comes to before the first step, of all levels together."""
    at_start = {}
    for way in (TRAINED, UNTRAINED, SHUFFLED, FREQUENT):
        hits = np.concatenate([correct[way, level, 0] for level in levels])
        # True and False cannot be subtracted.
        at_start[way] = hits.astype(float)

    planned = at_start[TRAINED] - at_start[UNTRAINED]
    lucky = at_start[SHUFFLED] - at_start[FREQUENT]
    at_end = np.concatenate([correct[TRAINED, level, level] for level in levels])

    lines = []
    for way in (TRAINED, UNTRAINED):
        for level in levels:
            points = {}
            for step in range(level + 1):
                points[step] = correct[way, level, step]
            lines.append(make_line(f"{way}, {level} steps", points))

    follows = estimate_share("the answer followed in", patched.follows)
    return Findings(
        n=len(planned),
        unit="problems",
        effects=[
            estimate_mean("answers told before the first step, above random weights", planned),
        ],
        controls=[
            estimate_mean("answers missed where all steps are written", ~at_end),
            # Noise may do worse than the best guess.
            estimate_mean("fitted on shuffled answers, above the most frequent answer", lucky, may_fall=True),
            estimate_mean("answers that change with a number of the question that was used already", patched.unrelated),
        ],
        lines=lines,
        x_label="steps that are written",
        y_label="answers that the probe tells",
        notes=[f"Where the number that step 1 came to was raised by one, {describe(follows)}."],
    )
