"""Do pictures and words share one space?

Two small towers are trained from nothing, one on pictures of a shape, one on captions ("red circle top left"), so that
a picture and its caption come out as one direction (the loss of CLIP). Then pictures of combinations that neither has
seen look for their caption among those of all such combinations. As the control the captions are shuffled in training:
each combination keeps one caption, that of another.

Source: A. Radford et al. 2021, arXiv 2103.00020.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from eval.studies import Findings, estimate_mean, make_line
from pipeline.config import Count
from pipeline.progress import progress_bar
from pipeline.studies.study import Base, StudySettings

CLAIM = "Pictures and words share one space: a picture finds the words for what it shows, also in new combinations."
LIMITS = (
    "It says that two towers trained together recombine colour, shape and place in tiny drawings, where a caption is "
    "the sum of its words; nothing follows for photographs or free texts, and no language model takes part."
)
NEEDS = ""


class Settings(StudySettings):
    """The study's recipe."""

    unseen: Annotated[float, Field(ge=0.1, le=0.9)]
    pictures: Count
    steps: Count
    batch_size: Count
    learning_rate: float
    size: Count
    temperature: float


COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "violet": (1, 0, 1),
    "white": (1, 1, 1),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
WORDS = (*COLOURS, *SHAPES, *ROWS, *COLUMNS)

PIXELS = 24  # of a side

Caption = tuple[str, str, str, str]


def measure(settings: Settings, base: Base) -> Findings:
    """Train on captions as they are and shuffled, and measure how often the right one is found."""
    rng = np.random.default_rng(settings.seed)
    captions = [tuple(caption) for caption in rng.permutation(list(itertools.product(COLOURS, SHAPES, ROWS, COLUMNS)))]
    count = round(settings.unseen * len(captions))
    unseen, seen = captions[:count], captions[count:]
    shuffled = [seen[i] for i in rng.permutation(len(seen))]

    found = {}
    for name, told in (("captions", seen), ("shuffled captions", shuffled)):
        towers = train(seen, told, settings, f"pictures: {name}")
        found[f"{name}, unseen"] = retrieve(towers, unseen, settings)
        if told is seen:
            found[f"{name}, seen"] = retrieve(towers, seen, settings)
    return summarize(unseen, found)


def draw(caption: Caption, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (3, pixels, pixels) of what a caption says; place, size, light and noise differ each time."""
    colour, shape, row, column = caption
    third = PIXELS / 3
    middle_y = third * (ROWS.index(row) + 0.5) + rng.uniform(-1, 1)
    middle_x = third * (COLUMNS.index(column) + 0.5) + rng.uniform(-1, 1)
    radius = rng.uniform(2.5, 3.5)

    y, x = np.mgrid[:PIXELS, :PIXELS]
    y, x = (y + 0.5 - middle_y) / radius, (x + 0.5 - middle_x) / radius
    distance = np.hypot(x, y)
    inside = {
        "circle": distance < 1,
        "square": np.maximum(abs(x), abs(y)) < 0.9,
        "triangle": (abs(x) < (y + 1) / 2) & (y < 1),
        "cross": (np.minimum(abs(x), abs(y)) < 0.35) & (np.maximum(abs(x), abs(y)) < 1),
        "ring": (distance < 1.1) & (distance > 0.6),
    }[shape]

    light = rng.uniform(0.6, 1) * np.array(COLOURS[colour])[:, None, None]
    return (light * inside + rng.normal(0, 0.05, (3, PIXELS, PIXELS))).astype(np.float32)


class Towers(nn.Module):
    """A convolutional network for pictures and a sum of words for captions, into one space."""

    def __init__(self, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
        self.picture = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (PIXELS // 8) ** 2, size))
        self.words = nn.EmbeddingBag(len(WORDS), size, mode="sum")

    def encode_pictures(self, pictures: np.ndarray) -> Tensor:
        """Return directions (pictures, size)."""
        return nn.functional.normalize(self.picture(torch.from_numpy(pictures)), dim=-1)

    def encode_captions(self, captions: Sequence[Caption]) -> Tensor:
        """Return directions (captions, size)."""
        ids = torch.tensor([[WORDS.index(word) for word in caption] for caption in captions])
        return nn.functional.normalize(self.words(ids), dim=-1)


def train(shown: Sequence[Caption], told: Sequence[Caption], settings: Settings, label: str) -> Towers:
    """Return towers trained on pictures of ``shown``, each with its caption in ``told``."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    towers = Towers(settings.size)
    optimizer = torch.optim.Adam(towers.parameters(), settings.learning_rate)

    with progress_bar(label, settings.steps, "pictures") as on_progress:
        for _ in range(settings.steps):
            # All different: the same one twice would be its own wrong answer.
            chosen = rng.permutation(len(shown))[: settings.batch_size]
            pictures = towers.encode_pictures(np.stack([draw(shown[i], rng) for i in chosen]))
            words = towers.encode_captions([told[i] for i in chosen])

            scores = pictures @ words.T / settings.temperature
            right = torch.arange(len(chosen))
            loss = nn.functional.cross_entropy(scores, right) + nn.functional.cross_entropy(scores.T, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_progress(1, len(chosen))
    return towers


@torch.no_grad()
def retrieve(towers: Towers, captions: Sequence[Caption], settings: Settings) -> dict[str, np.ndarray]:
    """Return for each part of a caption, and all of it, how often the caption that is found has it (captions,)."""
    rng = np.random.default_rng(settings.seed + 1)
    words = towers.encode_captions(captions)

    found = np.empty((len(captions), settings.pictures), dtype=int)
    for i, caption in enumerate(captions):
        pictures = np.stack([draw(caption, rng) for _ in range(settings.pictures)])
        found[i] = (towers.encode_pictures(pictures) @ words.T).argmax(-1).numpy()

    parts = {"whole caption": slice(0, 4), "colour": slice(0, 1), "shape": slice(1, 2), "place": slice(2, 4)}
    right = {}
    for name, part in parts.items():
        has_it = [[captions[j][part] == captions[i][part] for j in row] for i, row in enumerate(found)]
        right[name] = np.mean(has_it, axis=1)
    return right


def summarize(unseen: Sequence[Caption], found: dict[str, dict[str, np.ndarray]]) -> Findings:
    """Return what it comes to on combinations that were not seen."""
    chance = 1 / len(unseen)
    whole = {name: right["whole caption"] - chance for name, right in found.items()}

    return Findings(
        n=len(unseen),
        unit="combinations",
        effects=[estimate_mean("captions found for unseen combinations, above chance", whole["captions, unseen"])],
        controls=[estimate_mean("the same with captions shuffled in training", whole["shuffled captions, unseen"])],
        lines=[make_line(name, right) for name, right in found.items()],
        x_label=f"what is right in the caption that is found (chance of the whole one is {chance:.3f})",
        y_label="share",
    )
