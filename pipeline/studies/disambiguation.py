"""Does attention tell the river's bank from the money's bank?

Sixteen words with two senses (data/studies/disambiguation.jsonl), each after a word that decides which one is meant. A
linear probe is to tell the sense from the state of the word itself, layer by layer, after context words that it was not
fitted on. At layer 0 the state is the word's embedding, whatever stood before it, and the probe can only guess: if it
does not, the sentences give the sense away. What is there later, attention has brought.

Source: probes against shuffled labels: J. Hewitt and P. Liang 2019, arXiv 1909.03368.
"""

import numpy as np

from data.files import read_jsonl
from eval.studies import Findings, estimate_mean, make_line
from pipeline.config import Count, Share
from pipeline.prompts import encode_text
from pipeline.studies.states import compute_states, probe
from pipeline.studies.study import DATA, Base, StudySettings

CLAIM = "Attention tells the river's bank from the money's bank: the state of a word holds its sense."
LIMITS = (
    "It says that the word's own state separates contexts of one sense from those of the other, also unseen ones; it "
    "does not say that the base uses that, nor that it knows of senses: related words may do."
)
NEEDS = "words"

TEMPLATES = ("They spoke about the {context} and then about the {word}", "First came the {context}, then the {word}")


class Settings(StudySettings):
    """The study's recipe."""

    words: Count
    layers: Count
    depth: Share
    folds: Count
    shuffles: Count
    penalty: float


def measure(settings: Settings, base: Base) -> Findings:
    """Measure the accuracy of probes by layer, with true and with shuffled labels."""
    model, tokenizer = base.load()
    entries = [row for _, row in read_jsonl(DATA / "disambiguation.jsonl")][: settings.words]

    sentences = []
    for entry in entries:
        for context in sum(entry["contexts"], []):
            sentences += [template.format(context=context, word=entry["word"]) for template in TEMPLATES]
    rows = [encode_text(tokenizer, sentence) for sentence in sentences]
    states = compute_states(model, rows, "disambiguation: states")

    # (words, contexts, templates, layers, size): the first half of a word's contexts is of its first sense.
    states = states.reshape(len(entries), -1, len(TEMPLATES), *states.shape[1:])
    layers = np.linspace(0, states.shape[3] - 1, settings.layers).round().astype(int)
    middle = int(np.abs(layers - settings.depth * layers[-1]).argmin())

    true, shuffled = [], []
    rng = np.random.default_rng(settings.seed)
    for layer in layers:
        each = states[:, :, :, layer]
        true.append(np.concatenate([probe_word(word, find_senses(word), settings) for word in each]))

        draws = []
        for _ in range(settings.shuffles):
            draws.append(np.concatenate([probe_word(word, rng.integers(0, 2, len(word)), settings) for word in each]))
        shuffled.append(np.mean(draws, axis=0))
    return summarize(layers.tolist(), true, shuffled, middle)


def find_senses(states: np.ndarray) -> np.ndarray:
    """Return the sense (contexts,) of each context of a word."""
    return np.arange(len(states)) * 2 // len(states)


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
        fitted = folds != fold
        targets = np.eye(2)[labels[fitted].repeat(templates)]
        predicted = probe(
            states[fitted].reshape(-1, size), targets, states[~fitted].reshape(-1, size), settings.penalty
        )
        classes = predicted.argmax(-1).reshape(-1, templates)
        correct[~fitted] = (classes == labels[~fitted, None]).mean(1)
    return correct


def summarize(layers: list[int], true: list[np.ndarray], shuffled: list[np.ndarray], middle: int) -> Findings:
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
