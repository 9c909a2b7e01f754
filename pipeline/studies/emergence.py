"""Do abilities appear suddenly as models grow, or does the metric make it look so?

Nanos of several sizes are pretrained on the same texts. Of sums they have not read it is asked how likely each token of
the right solution is to them (a smooth metric), and whether every one of these tokens is the most likely (exact match:
what greedy decoding would write). A curve is sudden where most of its rise from the smallest model to the largest lies
between two neighbours. As the control each solution ends in the answer of another problem of its level: if exact match
rises there too, it does not ask for the right answer.

Source: J. Wei et al. 2022, arXiv 2206.07682; R. Schaeffer et al. 2023, arXiv 2304.15004.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field

from data.datasets import load
from data.problem import Problem
from eval.studies import Estimate, Findings, Line, estimate_mean, estimate_share
from pipeline.models.download import make_once
from pipeline.models.load import load_model
from pipeline.models.nano import PRESETS, TRAINER, Preset, hash_preset, pretrain
from pipeline.prompts import format_example_answer
from pipeline.settings import Count, refuse_twice
from pipeline.studies.study import Base, Level, StudySettings
from pipeline.training import build_row

CLAIM = "That an ability appears suddenly as models grow is the metric's doing: exact match jumps, likelihood does not."
LIMITS = (
    "It compares two metrics of the same models, on one task and one training of each size; another task, or other "
    "sizes in between, may look otherwise. Nothing follows for models a thousand times as large."
)
NEEDS = ""


def _check_sizes(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each of four heads has an even width, and the first size is compared with the last."""
    if any(hidden % 8 for hidden, _ in sizes):
        raise ValueError("a hidden size must be a multiple of 8")
    if sizes != sorted(set(sizes)):
        raise ValueError("the sizes must rise")
    return sizes


class Settings(StudySettings):
    """The study's recipe."""

    texts: Count
    sizes: Annotated[list[tuple[Count, Count]], Field(min_length=3), AfterValidator(_check_sizes)]
    problems: Count
    levels: Annotated[list[Level], Field(min_length=1), AfterValidator(refuse_twice)]
    resamples: Count


METRICS = ("exact match", "log-probability of a token")


def measure(settings: Settings, base: Base) -> Findings:
    """Pretrain the models where that was not done, and measure both metrics over their sizes."""
    # The texts are drawn from the train split alone, so nothing of dev can be known by heart.
    levels = ",".join(map(str, settings.levels))
    unread = load("sums_v1", "dev", levels=levels).problems
    problems = unread[: settings.problems]
    shuffled = shift_answers(problems)

    sizes = []
    right = []
    wrong = []
    for hidden, layers in settings.sizes:
        folder = pretrain_size(settings.texts, hidden, layers)
        # In bf16 the two likeliest tokens may tie, and exact match would go by their order.
        model, tokenizer = load_model(folder, load="fp32")

        sizes.append(sum(weight.numel() for weight in model.parameters()))
        right.append(score_solutions(model, tokenizer, problems))
        wrong.append(score_solutions(model, tokenizer, shuffled))
    return summarize(sizes, np.array(right), np.array(wrong), settings)


def pretrain_size(texts: int, hidden: int, layers: int) -> Path:
    """Return the folder of a nano of a size, in the cache once it is made."""
    preset: Preset = {
        "name": f"nano-{hidden}x{layers}",
        "texts": texts,
        "hidden_size": hidden,
        # A gated layer has three matrices, not two: with 8/3 it is as large as with the usual 4.
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        # Adam's best rate falls as the width grows (arXiv 2203.03466). With nano's for all, the largest learnt least.
        "learning_rate": TRAINER["learning_rate"] * PRESETS["nano"]["hidden_size"] / hidden,
    }
    # With its hash, so that no old model is taken where nano's texts or training have changed.
    name = f"{preset['name']}-{hash_preset(preset)}"
    return make_once(name, lambda folder: pretrain(preset, folder))


def shift_answers(problems: Sequence[Problem]) -> list[Problem]:
    """Return each problem with the answer of the next one of its level."""
    shifted = []
    levels = dict.fromkeys(problem.level for problem in problems)
    for level in levels:
        # The range of answers grows with the level: another level's could be told by its size.
        same = [problem for problem in problems if problem.level == level]
        following = same[1:] + same[:1]
        for problem, other in zip(same, following, strict=True):
            shifted.append(replace(problem, answer=other.answer))
    return shifted


def score_solutions(model, tokenizer, problems: Sequence[Problem]) -> np.ndarray:
    """Return both metrics of each solution: (2, problems), exact match first."""
    scores = [score_solution(model, tokenizer, problem) for problem in problems]
    return np.array(scores).T


@torch.no_grad()
def score_solution(model, tokenizer, problem: Problem) -> tuple[float, float]:
    """Return whether greedy decoding writes the solution, and the mean log-probability (nats) of one of its tokens."""
    text = format_example_answer(problem, "cot")
    row = build_row(tokenizer, problem, text, "cot")
    ids = torch.tensor(row["input_ids"])
    mask = torch.tensor(row["completion_mask"])
    solution = ids[mask == 1]

    batch = ids[None].to(model.device)
    logits = model(batch).logits[0].float().cpu()
    # The logits at a token say what comes after it.
    before = logits[-len(solution) - 1 : -1]
    logprobs = torch.log_softmax(before, dim=-1)

    # Greedy decoding meets the right tokens as long as it writes them, so one pass over all tells what it would write.
    is_right = logprobs.argmax(-1) == solution
    is_exact = bool(is_right.all())

    # A sum would be lower for a longer solution.
    likelihood = logprobs.gather(1, solution[:, None]).mean()
    return float(is_exact), float(likelihood)


def find_largest_jump(curve: np.ndarray) -> float:
    """Return the share of a curve's whole rise that lies between two neighbours; 1 where it does not rise."""
    rise = curve[-1] - curve[0]
    if rise <= 0:
        return 1.0

    # A curve that falls in between rises by more than its whole rise elsewhere.
    share = np.diff(curve).max() / rise
    return float(min(1.0, share))


def compare_jumps(curves: np.ndarray) -> float:
    """Return by how much the largest jump of exact match is above that of log-probability, of (sizes, 2)."""
    return find_largest_jump(curves[:, 0]) - find_largest_jump(curves[:, 1])


def summarize(
    sizes: Sequence[int],
    right: np.ndarray,
    shuffled: np.ndarray,
    settings: Settings,
) -> Findings:
    """Return what it comes to; the arrays are (sizes, 2, problems), exact match first."""
    rng = np.random.default_rng(settings.seed)
    n = right.shape[-1]
    means = right.mean(-1)

    # A jump is no mean over problems, so the intervals of the other studies do not fit it. All sizes and metrics have
    # the same problems in a draw: that some are easier than others is no difference between them.
    draws = []
    for _ in range(settings.resamples):
        chosen = rng.integers(0, n, n)
        draws.append(right[..., chosen].mean(-1))

    def estimate(label: str, measure_curves: Callable[[np.ndarray], float]) -> Estimate:
        """Return a figure of both curves (sizes, 2), with the interval of the bootstrap over problems."""
        drawn = [measure_curves(draw) for draw in draws]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Estimate(label, measure_curves(means), float(low), float(high))

    # One is a share and the other in nats: what they have in common is how much of its own rise each has done.
    x = np.log10(sizes).tolist()
    lines = []
    for metric, name in enumerate(METRICS):
        points = []
        for place in range(len(sizes)):
            rise = functools.partial(share_of_rise, metric=metric, place=place)
            points.append(estimate(name, rise))
        lines.append(Line(name, x, points))

    # The control does not rise, so it has no share of a rise.
    wrong = [estimate_share("shuffled answers", hits) for hits in shuffled[:, 0]]
    lines.append(Line("exact match, shuffled answers (as it is)", x, wrong))

    notes = []
    for size, (exact, logprob) in zip(sizes, means, strict=True):
        notes.append(f"{size:,} parameters: exact match {exact:.3f}, log-probability of a token {logprob:.3f}.")

    rises = right[-1, 0] - right[0, 0]
    shuffled_rises = shuffled[-1, 0] - shuffled[0, 0]
    return Findings(
        n=n,
        unit="problems",
        effects=[
            estimate_mean("exact match rises by", rises),
            estimate("largest jump of exact match, above that of log-probability (shares of a rise)", compare_jumps),
        ],
        controls=[estimate_mean("exact match with shuffled answers rises by", shuffled_rises)],
        lines=lines,
        x_label="log10 of the parameters",
        y_label="share of the rise from the smallest to the largest",
        notes=notes,
    )


def share_of_rise(curves: np.ndarray, metric: int, place: int) -> float:
    """Return how far the curve of a metric has risen at a place, of its whole rise; ``curves`` is (sizes, 2)."""
    curve = curves[:, metric]
    rise = curve[-1] - curve[0]
    if not rise:
        return 0.0

    risen = curve[place] - curve[0]
    return float(risen / rise)
