"""Is a prompt a program: does it make a completer classify?

A hundred sentences of our own (data/studies/prompt_program.jsonl) are put into prompts that ask whether they are
positive or negative, and the more likely of the two words is the answer. What the prompts give these words without a
sentence is taken off first. Against that stand the same prompts with their words shuffled, which say the same words but
ask nothing, and prompts that ask something else of the same sentences.

Source: calibration by an empty input: T. Zhao et al. 2021, arXiv 2102.09690.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from data.files import read_jsonl
from eval.studies import Findings, estimate_mean, make_line
from pipeline.studies.states import compute_label_logprobs
from pipeline.studies.study import DATA, Base, StudySettings

CLAIM = "A prompt is a program: it makes a model that completes texts into a classifier of sentiment."
LIMITS = (
    "It says that the order of a prompt's words matters for clear sentences like these; where it does not hold, the "
    "words alone do as well. The intervals are over sentences: harder texts, other prompts and other orders of their "
    "words may do otherwise."
)
NEEDS = "words"

SENTIMENTS = ("positive", "negative")  # as the data calls them


class Settings(StudySettings):
    """The study's recipe."""

    prompts: Annotated[list[Annotated[str, Field(pattern=r"\{text\}")]], Field(min_length=1)]
    labels: tuple[str, str]
    other_labels: Annotated[list[tuple[str, str]], Field(min_length=1)]
    empty_inputs: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Program:
    """A prompt with a place for a text, and the two words that it may go on with."""

    prompt: str
    labels: Sequence[str]

    def write(self, text: str) -> str:
        """Return the prompt with a text in it."""
        first, second = self.labels
        prompt = self.prompt.replace("{text}", text)
        return prompt.replace("{first}", first).replace("{second}", second)

    def shuffle(self, rng: np.random.Generator) -> "Program":
        """Return the prompt with all its words but the text in another order."""
        # Line breaks and the text stay where they are: the layout of a prompt is not its order of words.
        words = self.prompt.replace("\n", " \n ").split(" ")
        places = []
        for i, word in enumerate(words):
            if word.strip() and word != "{text}":
                places.append(i)

        shuffled = list(words)
        for place, other in zip(places, rng.permutation(places), strict=True):
            shuffled[place] = words[other]
        prompt = " ".join(shuffled).replace(" \n ", "\n")
        return Program(prompt, self.labels)


def measure(settings: Settings, base: Base) -> Findings:
    """Measure how often the prompts, shuffled ones and other questions tell the sentiment."""
    model, tokenizer = base.load()
    texts = []
    answers = []
    for _, row in read_jsonl(DATA / "prompt_program.jsonl"):
        texts.append(row["text"])
        answers.append(SENTIMENTS.index(row["label"]))

    rng = np.random.default_rng(settings.seed)
    programs = [Program(prompt, settings.labels) for prompt in settings.prompts]
    # There may be more prompts than other questions.
    others = itertools.cycle(settings.other_labels)
    ways = {
        "prompt": programs,
        "words shuffled": [program.shuffle(rng) for program in programs],
        "another question": [Program(prompt, next(others)) for prompt in settings.prompts],
    }

    correct: dict[str, list[np.ndarray]] = {"prompt, not calibrated": []}
    for way, many in ways.items():
        correct[way] = []
        for number, program in enumerate(many, 1):
            prompts = [program.write(text) for text in [*texts, *settings.empty_inputs]]
            # A prompt ends without a space, which belongs to the token of the next word.
            labels = [f" {label}" for label in program.labels]
            shown = f"prompt_program: {way} {number}"
            logprobs = compute_label_logprobs(model, tokenizer, prompts, labels, shown)

            # One word is likelier than the other whatever is asked; all prompts are freed of that, shuffled ones too.
            leanings = logprobs[: len(texts)]
            bias = logprobs[len(texts) :].mean(0)
            correct[way].append((leanings - bias).argmax(-1) == answers)
            if way == "prompt":
                correct["prompt, not calibrated"].append(leanings.argmax(-1) == answers)
    return summarize(correct)


def summarize(correct: dict[str, list[np.ndarray]]) -> Findings:
    """Return what it comes to; ``correct`` has for each way an array (sentences,) a prompt."""
    # One value a sentence: the prompts' answers to it are not independent.
    means = {way: np.mean(hits, axis=0) for way, hits in correct.items()}

    lines = []
    for way, hits in correct.items():
        points = {"mean": means[way]}
        for number, each in enumerate(hits, 1):
            points[f"prompt {number}"] = each
        lines.append(make_line(way, points))

    accuracies = means["prompt"]
    return Findings(
        n=len(accuracies),
        unit="sentences",
        effects=[
            estimate_mean("accuracy of the prompts, above chance", accuracies - 0.5),
            estimate_mean("above their words shuffled", accuracies - means["words shuffled"]),
        ],
        controls=[estimate_mean("another question, above chance", means["another question"] - 0.5)],
        lines=lines,
        x_label="prompt (recipes/studies/prompt_program.yaml; chance is 0.5)",
        y_label="accuracy",
    )
