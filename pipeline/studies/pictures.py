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
from pipeline.progress import progress_bar
from pipeline.settings import Count, Positive
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
    learning_rate: Positive
    size: Count
    temperature: Positive


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

# Where in a caption its parts are.
PARTS = {
    "whole caption": slice(0, 4),
    "colour": slice(0, 1),
    "shape": slice(1, 2),
    "place": slice(2, 4),
}


def measure(settings: Settings, base: Base) -> Findings:
    """Train on captions as they are and shuffled, and measure how often the right one is found."""
    rng = np.random.default_rng(settings.seed)
    combinations = list(itertools.product(COLOURS, SHAPES, ROWS, COLUMNS))
    captions = [tuple(caption) for caption in rng.permutation(combinations)]

    # What is kept out are combinations: each of their words is in others that are seen.
    count = round(settings.unseen * len(captions))
    unseen = captions[:count]
    seen = captions[count:]

    # One caption for each combination throughout: it can be learnt by heart as well as the right one.
    order = rng.permutation(len(seen))
    shuffled = [seen[i] for i in order]

    towers = train(seen, seen, settings, "pictures: captions")
    misled = train(seen, shuffled, settings, "pictures: shuffled captions")
    found = {
        "captions, unseen": retrieve(towers, unseen, settings),
        "captions, seen": retrieve(towers, seen, settings),
        "shuffled captions, unseen": retrieve(misled, unseen, settings),
    }
    return summarize(unseen, found)


def draw(caption: Caption, rng: np.random.Generator) -> np.ndarray:
    """Return a picture (3, pixels, pixels) of what a caption says; place, size, light and noise differ each time."""
    colour, shape, row, column = caption
    third = PIXELS / 3
    row_middle = third * (ROWS.index(row) + 0.5)
    column_middle = third * (COLUMNS.index(column) + 0.5)

    # A third is 8 pixels: the shape stays mostly in its own, wherever chance moves it.
    middle_y = row_middle + rng.uniform(-1, 1)
    middle_x = column_middle + rng.uniform(-1, 1)
    radius = rng.uniform(2.5, 3.5)

    # Half a pixel: it is asked of a pixel's middle whether it is inside.
    y, x = np.mgrid[:PIXELS, :PIXELS]
    y = (y + 0.5 - middle_y) / radius
    x = (x + 0.5 - middle_x) / radius
    inside = find_inside(shape, x, y)

    # A dim red stays above the noise, and is not another colour.
    brightness = rng.uniform(0.6, 1)
    channels = np.array(COLOURS[colour])
    light = brightness * channels[:, None, None]
    noise = rng.normal(0, 0.05, (3, PIXELS, PIXELS))

    picture = light * inside + noise
    return picture.astype(np.float32)


def find_inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points are inside a shape around 0, whose radius is about 1."""
    distance = np.hypot(x, y)
    nearer = np.minimum(abs(x), abs(y))
    farther = np.maximum(abs(x), abs(y))

    inside = {
        "circle": distance < 1,
        # It has about the area of the circle, so that its corners must tell it.
        "square": farther < 0.9,
        "triangle": (abs(x) < (y + 1) / 2) & (y < 1),
        "cross": (nearer < 0.35) & (farther < 1),
        "ring": (distance < 1.1) & (distance > 0.6),
    }
    return inside[shape]


class Towers(nn.Module):
    """A convolutional network for pictures and a sum of words for captions, into one space."""

    def __init__(self, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, 16, 32, 64)
        for inputs, outputs in itertools.pairwise(channels):
            # Each halves the sides.
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
            layers.append(nn.ReLU())

        # Flattened, where a mean over the places would lose what is said of the place.
        side = PIXELS // 8
        layers.append(nn.Flatten())
        layers.append(nn.Linear(channels[-1] * side**2, size))
        self.picture = nn.Sequential(*layers)
        self.words = nn.EmbeddingBag(len(WORDS), size, mode="sum")

    def encode_pictures(self, pictures: np.ndarray) -> Tensor:
        """Return directions (pictures, size)."""
        vectors = self.picture(torch.from_numpy(pictures))
        return nn.functional.normalize(vectors, dim=-1)

    def encode_captions(self, captions: Sequence[Caption]) -> Tensor:
        """Return directions (captions, size)."""
        ids = []
        for caption in captions:
            ids.append([WORDS.index(word) for word in caption])

        vectors = self.words(torch.tensor(ids))
        return nn.functional.normalize(vectors, dim=-1)


def train(
    shown: Sequence[Caption],
    captions: Sequence[Caption],
    settings: Settings,
    label: str,
) -> Towers:
    """Return towers trained on pictures of ``shown``, each with its caption in ``captions``."""
    # The control has the same first weights and the same pictures in the same order.
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    towers = Towers(settings.size)
    optimizer = torch.optim.Adam(towers.parameters(), settings.learning_rate)

    with progress_bar(label, settings.steps, "pictures") as on_progress:
        for _ in range(settings.steps):
            # All different: the same one twice would be its own wrong answer.
            chosen = rng.permutation(len(shown))[: settings.batch_size]
            drawn = [draw(shown[i], rng) for i in chosen]
            pictures = towers.encode_pictures(np.stack(drawn))
            words = towers.encode_captions([captions[i] for i in chosen])

            # Each picture is to choose its caption in the batch, and each caption its picture.
            scores = pictures @ words.T / settings.temperature
            right = torch.arange(len(chosen))
            picture_loss = nn.functional.cross_entropy(scores, right)
            caption_loss = nn.functional.cross_entropy(scores.T, right)
            loss = picture_loss + caption_loss

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_progress(1, len(chosen))
    return towers


@torch.no_grad()
def retrieve(towers: Towers, captions: Sequence[Caption], settings: Settings) -> dict[str, np.ndarray]:
    """Return for each part of a caption, and all of it, how often the caption that is found has it (captions,)."""
    # Another seed than in training, so that seen combinations have new pictures too.
    rng = np.random.default_rng(settings.seed + 1)
    words = towers.encode_captions(captions)

    found = []
    for caption in captions:
        drawn = [draw(caption, rng) for _ in range(settings.pictures)]
        pictures = towers.encode_pictures(np.stack(drawn))
        scores = pictures @ words.T
        found.append(scores.argmax(-1).tolist())

    right = {}
    for name, part in PARTS.items():
        has_it = []
        for caption, row in zip(captions, found, strict=True):
            has_it.append([captions[j][part] == caption[part] for j in row])
        right[name] = np.mean(has_it, axis=1)
    return right


def summarize(unseen: Sequence[Caption], found: dict[str, dict[str, np.ndarray]]) -> Findings:
    """Return what it comes to on combinations that were not seen."""
    # The caption is looked for among these, of which one is right.
    chance = 1 / len(unseen)
    gain = found["captions, unseen"]["whole caption"] - chance
    misled = found["shuffled captions, unseen"]["whole caption"] - chance

    return Findings(
        n=len(unseen),
        unit="combinations",
        effects=[estimate_mean("captions found for unseen combinations, above chance", gain)],
        controls=[estimate_mean("the same with captions shuffled in training", misled)],
        lines=[make_line(name, right) for name, right in found.items()],
        x_label=f"what is right in the caption that is found (chance of the whole one is {chance:.3f})",
        y_label="share",
    )
