"""Does attention tell the river's bank from the money's bank?

Sixteen words with two senses (data/studies/disambiguation.jsonl), each after a word that decides which one is meant. A
linear probe is to tell the sense from the state of the word itself, layer by layer, after context words that it was not
fitted on. At layer 0 the state is the word's embedding, whatever stood before it, so the probe can only guess. What is
there later, attention has brought. Both controls check the apparatus: that nothing but the state is read (layer 0), and
that no context is among the fitted and the tested ones (shuffled labels).

Source: probes against shuffled labels: J. Hewitt and P. Liang 2019, arXiv 1909.03368.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from data.files import read_jsonl
from eval.studies import Findings, estimate_mean, make_line
from pipeline.prompts import encode_text
from pipeline.settings import Count, Positive, Share
from pipeline.studies.states import compute_states, probe
from pipeline.studies.study import DATA, Base, StudySettings

CLAIM = "Attention tells the river's bank from the money's bank: the state of a word holds its sense."
LIMITS = (
    "It says that the word's own state separates contexts of one sense from those of the other, also unseen ones; it "
    "does not say that the base uses that, nor that it knows of senses: related words may do."
)
NEEDS = "words"

# The word is last, so its state can know nothing but the context and the template.
TEMPLATES = (
    "They spoke about the {context} and then about the {word}",
    "First came the {context}, then the {word}",
)


class Settings(StudySettings):
    """The study's recipe."""

    words: Count
    layers: Count
    depth: Share
    folds: Annotated[int, Field(ge=2)]
    shuffles: Count
    penalty: Positive


def measure(settings: Settings, base: Base) -> Findings:
    """Measure the accuracy of probes by layer, with true and with shuffled labels."""
    model, tokenizer = base.load()
    entries = [row for _, row in read_jsonl(DATA / "disambiguation.jsonl")][: settings.words]

    rows = []
    for entry in entries:
        first, second = entry["contexts"]
        for context, template in itertools.product(first + second, TEMPLATES):
            sentence = template.format(context=context, word=entry["word"])
            rows.append(encode_text(tokenizer, sentence))
    states = compute_states(model, rows, "disambiguation: states")

    # (words, contexts, templates, layers, size): the first half of a word's contexts is of its first sense.
    states = states.reshape(len(entries), -1, len(TEMPLATES), *states.shape[1:])
    last = states.shape[3] - 1
    layers = np.linspace(0, last, settings.layers).round().astype(int)
    # One layer decides: the best of several would be above chance by luck.
    distances = np.abs(layers - settings.depth * last)
    middle = int(distances.argmin())

    true = []
    shuffled = []
    rng = np.random.default_rng(settings.seed)
    for layer in layers:
        words = states[:, :, :, layer]
        senses = [find_senses(word) for word in words]
        true.append(probe_words(words, senses, settings))

        # With that many features a probe may fit any labels: these tell what that is worth.
        draws = []
        for _ in range(settings.shuffles):
            labels = [rng.integers(0, 2, len(word)) for word in words]
            draws.append(probe_words(words, labels, settings))
        shuffled.append(np.mean(draws, axis=0))
    return summarize(layers.tolist(), true, shuffled, middle)


def find_senses(states: np.ndarray) -> np.ndarray:
    """Return the sense (contexts,) of each context of a word."""
    contexts = len(states)
    return np.arange(contexts) * 2 // contexts


def probe_words(words: np.ndarray, labels: Sequence[np.ndarray], settings: Settings) -> np.ndarray:
    """Return how often the label of each context of all words is told (words * contexts,): a probe has one word."""
    correct = []
    for states, known in zip(words, labels, strict=True):
        correct.append(probe_word(states, known, settings))
    return np.concatenate(correct)


def probe_word(states: np.ndarray, labels: np.ndarray, settings: Settings) -> np.ndarray:
    """Return for each context (contexts,) how often a probe that was fitted on others tells its label.

    Args:
        states: (contexts, templates, size) of one word.
        labels: (contexts,), 0 or 1.
        settings: folds and penalty.
    """
    contexts, templates, size = states.shape
    # The contexts of a fold are of both senses.
    folds = np.arange(contexts) % (contexts // 2) % settings.folds

    correct = np.empty(contexts)
    for fold in range(settings.folds):
        # A context is held out in all its templates, or the probe could go by the context word itself.
        fitted = folds != fold
        known = states[fitted].reshape(-1, size)
        others = states[~fitted].reshape(-1, size)

        targets = np.eye(2)[labels[fitted].repeat(templates)]
        predicted = probe(known, targets, others, settings.penalty)
        classes = predicted.argmax(-1).reshape(-1, templates)

        is_right = classes == labels[~fitted, None]
        correct[~fitted] = is_right.mean(1)
    return correct


def summarize(
    layers: list[int],
    true: list[np.ndarray],
    shuffled: list[np.ndarray],
    middle: int,
) -> Findings:
    """Return what it comes to at the middle layer; the arrays (contexts,) are by layer."""
    return Findings(
        n=len(true[0]),
        unit="contexts",
        effects=[
            estimate_mean(f"accuracy at layer {layers[middle]}, above chance", true[middle] - 0.5),
            estimate_mean("above that with shuffled labels", true[middle] - shuffled[middle]),
        ],
        controls=[
            estimate_mean("accuracy at layer 0, above chance", true[0] - 0.5),
            estimate_mean("accuracy with shuffled labels, above chance", shuffled[middle] - 0.5),
        ],
        lines=[
            make_line("sense", dict(zip(layers, true, strict=True))),
            make_line("shuffled labels", dict(zip(layers, shuffled, strict=True))),
        ],
        x_label="layer (0 is the embedding; chance is 0.5)",
        y_label="accuracy of the probe",
    )
