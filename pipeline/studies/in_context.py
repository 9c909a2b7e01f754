"""Does a model learn a task from the examples in its prompt?

Four tasks with two classes, whose labels are two made-up words. Which of them stands for which class is tossed for each
problem, so nothing but the examples can tell: without any, chance is exactly one half. With labels by chance it is so
too, whatever the model does; if that control is not flat, the prompts give the answer away. Examples of another task
have the label of the question's class on the class in the same place. If that helps, something else than the task
tells the first class from the second in all tasks, such as how rare or how long its words are.

Source: T. Brown et al. 2020, arXiv 2005.14165; the controls with other labels: S. Min et al. 2022, arXiv 2202.12837.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from eval.studies import Findings, describe, estimate_mean, estimate_share, make_line
from pipeline.settings import Count
from pipeline.studies.states import compute_label_logprobs
from pipeline.studies.study import Base, StudySettings

CLAIM = "A model learns a task from a few examples in its prompt, without any training."
LIMITS = (
    "It says that examples tell this base which of two labels belongs to which class, on tasks as easy as these; not "
    "that it could learn a class that it has never met, nor how."
)
NEEDS = "words"


class Settings(StudySettings):
    """The study's recipe."""

    problems_per_task: Count
    # A class has at least fifteen words, of which the question may be one.
    pairs_of_examples: Annotated[list[Annotated[int, Field(ge=1, le=12)]], Field(min_length=1)]


# They mean nothing, so no base can bring along which class is which.
LABELS = (" lum", " vit")
TRUE, MISLABELLED, OTHER = WAYS = ("true labels", "labels by chance", "another task")

ANIMALS = "dog cat horse cow pig goat lion tiger bear wolf fox rabbit snake eagle duck whale"
TOOLS = "hammer saw drill knife spoon shovel axe rope ladder brush needle fork wheel lamp bucket pen"
GOOD = "happy lovely kind wonderful excellent pleasant brave honest beautiful perfect joyful gentle fair great glad"
BAD = "sad awful cruel terrible horrible nasty cowardly dishonest ugly broken miserable rude unfair evil angry"
SYLLABLES = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]


def draw_word(rng: np.random.Generator, first: str, second: str, kind: int) -> str:
    """Return a word of one of two lists."""
    words = (first, second)[kind].split()
    return str(rng.choice(words))


def draw_made_up_word(rng: np.random.Generator, kind: int) -> str:
    """Return a word of no language: its class is its ending."""
    stem = "".join(rng.choice(SYLLABLES, 2))
    return stem + ("ck", "sh")[kind]


def draw_operation(rng: np.random.Generator, kind: int) -> str:
    """Return two numbers under a sign without a meaning: its class is which of them is larger."""
    numbers = rng.choice(range(1, 10), 2, replace=False)
    low, high = sorted(numbers)
    return f"{high} @ {low}" if kind else f"{low} @ {high}"


TASKS = {
    "animals, tools": lambda rng, kind: draw_word(rng, ANIMALS, TOOLS, kind),
    "good, bad": lambda rng, kind: draw_word(rng, GOOD, BAD, kind),
    "made-up words": draw_made_up_word,
    "made-up operation": draw_operation,
}


@dataclass(frozen=True)
class Problem:
    """Examples (text, place of the label) in each way to draw them, a question, and the place of its right label."""

    task: str
    examples: dict[str, list[tuple[str, int]]]
    question: str
    answer: int

    def write_prompt(self, way: str, count: int) -> str:
        """Return the prompt with the first ``count`` examples drawn in one way."""
        lines = []
        for text, label in self.examples[way][:count]:
            lines.append(f"{text} ->{LABELS[label]}\n")
        return "".join(lines) + f"{self.question} ->"


def measure(settings: Settings, base: Base) -> Findings:
    """Measure the accuracy over the number of examples, true, mislabelled and of another task."""
    model, tokenizer = base.load()
    rng = np.random.default_rng(settings.seed)
    counts = [0, *(2 * pairs for pairs in settings.pairs_of_examples)]
    most = max(counts)

    # Each with the most examples: a prompt with fewer has the first of them, so that counts differ in nothing else.
    problems = []
    for task in TASKS:
        for _ in range(settings.problems_per_task):
            problems.append(draw_problem(rng, task, most))
    answers = [problem.answer for problem in problems]

    correct = {}
    for way, count in itertools.product(WAYS, counts):
        # Without examples all ways have the same prompts.
        if count == 0 and way != TRUE:
            continue

        prompts = [problem.write_prompt(way, count) for problem in problems]
        label = f"in_context: {count} examples, {way}"
        logprobs = compute_label_logprobs(model, tokenizer, prompts, LABELS, label)
        correct[way, count] = logprobs.argmax(-1) == answers
    return summarize(problems, correct, most)


def draw_problem(rng: np.random.Generator, task: str, count: int) -> Problem:
    """Return a problem with ``count`` examples in each way, half of each class."""
    # Whether the first class has the second label.
    flip = int(rng.integers(2))
    others = [name for name in TASKS if name != task]
    other = str(rng.choice(others))
    kind = int(rng.integers(2))
    question = TASKS[task](rng, kind)

    # The same texts, so that nothing but the labels is by chance.
    true = draw_examples(rng, task, count, question)
    mislabelled = [(text, int(rng.integers(2))) for text, _ in true]
    unrelated = draw_examples(rng, other, count, question)

    return Problem(
        task=task,
        examples={
            TRUE: flip_labels(true, flip),
            MISLABELLED: mislabelled,
            OTHER: flip_labels(unrelated, flip),
        },
        question=question,
        answer=kind ^ flip,
    )


def flip_labels(examples: list[tuple[str, int]], flip: int) -> list[tuple[str, int]]:
    """Return the place of each text's label instead of its class."""
    return [(text, kind ^ flip) for text, kind in examples]


def draw_examples(rng: np.random.Generator, task: str, count: int, question: str) -> list[tuple[str, int]]:
    """Return different texts with their classes, one of each class after the other, in either order."""
    examples: dict[str, int] = {}
    while len(examples) < count:
        # In either order, or the place of an example would tell its label.
        pair = rng.permutation(2).tolist()
        texts = {TASKS[task](rng, kind): kind for kind in pair}

        # The question among them would be answered by copying.
        known = {question, *examples}
        if not texts.keys() & known:
            examples |= texts
    return list(examples.items())


def summarize(
    problems: Sequence[Problem],
    correct: dict[tuple[str, int], np.ndarray],
    most: int,
) -> Findings:
    """Return what it comes to with the most examples; ``correct`` is by way and number of examples."""
    lines = []
    for way in WAYS:
        points = {}
        for (other, count), hits in correct.items():
            if other == way:
                points[count] = hits
        lines.append(make_line(way, points))

    notes = []
    for task in TASKS:
        chosen = [problem.task == task for problem in problems]
        share = estimate_share(task, correct[TRUE, most][chosen])
        notes.append(f"With {most} examples: {describe(share)}.")

    return Findings(
        n=len(problems),
        unit="problems",
        effects=[estimate_mean(f"accuracy with {most} examples, above chance", correct[TRUE, most] - 0.5)],
        controls=[
            estimate_mean("with labels by chance, above chance", correct[MISLABELLED, most] - 0.5),
            estimate_mean("with examples of another task, above chance", correct[OTHER, most] - 0.5),
        ],
        lines=lines,
        x_label="examples in the prompt (chance is 0.5)",
        y_label="accuracy",
        notes=notes,
    )
