"""Do abilities appear suddenly as models grow, or does the metric make it look so?

Nanos of several sizes are pretrained on the same texts. Of sums they have not read it is asked how likely each token of
the right solution is to them (a smooth metric), and whether every one of these tokens is the most likely (exact match:
what greedy decoding would write). A curve is sudden where most of its rise from the smallest model to the largest lies
between two neighbours. As the control each solution ends in the answer of another problem of its level: if exact match
rises there too, the answers alone can be guessed.

Source: J. Wei et al. 2022, arXiv 2206.07682; R. Schaeffer et al. 2023, arXiv 2304.15004.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from data.datasets import load
from data.problem import Problem
from eval.studies import Estimate, Findings, Line, estimate_mean, estimate_share
from pipeline.config import Count
from pipeline.models.download import make_once
from pipeline.models.load import load_model
from pipeline.models.nano import Preset, hash_preset, pretrain
from pipeline.prompts import format_example_answer
from pipeline.studies.study import Base, Level, StudySettings
from pipeline.training import build_row

CLAIM = "That an ability appears suddenly as models grow is the metric's doing: exact match jumps, likelihood does not."
LIMITS = (
    "It compares two metrics of the same models, on one task and one training of each size; another task, or other "
    "sizes in between, may look otherwise. Nothing follows for models a thousand times as large."
)
NEEDS = ""


class Settings(StudySettings):
    """The study's recipe."""

    texts: Count
    sizes: Annotated[list[tuple[Count, Count]], Field(min_length=3)]
    problems: Count
    levels: Annotated[list[Level], Field(min_length=1)]
    resamples: Count


def measure(settings: Settings, base: Base) -> Findings:
    """Pretrain the models where that was not done, and measure both metrics over their sizes."""
    problems = load("sums_v1", "dev", levels=",".join(map(str, settings.levels))).problems[: settings.problems]
    shuffled = shift_answers(problems)

    sizes = []
    scores: list[list[np.ndarray]] = [[], []]
    for hidden, layers in settings.sizes:
        model, tokenizer = load_model(pretrain_size(settings.texts, hidden, layers), load="fp32")
        sizes.append(sum(weight.numel() for weight in model.parameters()))
        for curve, asked in zip(scores, (problems, shuffled), strict=True):
            curve.append(np.array([score_solution(model, tokenizer, problem) for problem in asked]).T)
    return summarize(sizes, np.array(scores[0]), np.array(scores[1]), settings)


def pretrain_size(texts: int, hidden: int, layers: int) -> Path:
    """Return the folder of a nano of a size, in the cache once it is made."""
    preset: Preset = {
        "name": f"nano-{hidden}x{layers}",
        "texts": texts,
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    return make_once(f"{preset['name']}-{hash_preset(preset)}", lambda folder: pretrain(preset, folder))


def shift_answers(problems: Sequence[Problem]) -> list[Problem]:
    """Return each problem with the answer of the next one of its level."""
    shifted = []
    for level in dict.fromkeys(problem.level for problem in problems):
        same = [problem for problem in problems if problem.level == level]
        for problem, other in zip(same, same[1:] + same[:1], strict=True):
            shifted.append(replace(problem, answer=other.answer))
    return shifted


@torch.no_grad()
def score_solution(model, tokenizer, problem: Problem) -> tuple[float, float]:
    """Return whether greedy decoding writes the solution, and the mean log-probability (nats) of one of its tokens."""
    row = build_row(tokenizer, problem, format_example_answer(problem, "cot"), "cot")
    solution = torch.tensor(row["input_ids"])[torch.tensor(row["completion_mask"]) == 1]
    logits = model(torch.tensor([row["input_ids"]], device=model.device)).logits[0].float().cpu()

    # The logits at a token say what comes after it.
    logprobs = torch.log_softmax(logits[-len(solution) - 1 : -1], dim=-1)
    is_exact = bool((logprobs.argmax(-1) == solution).all())
    return float(is_exact), float(logprobs.gather(1, solution[:, None]).mean())


def find_largest_jump(curve: np.ndarray) -> float:
    """Return the share of a curve's whole rise that lies between two neighbours; 1 where it does not rise."""
    rise = curve[-1] - curve[0]
    return float(min(1.0, np.diff(curve).max() / rise)) if rise > 0 else 1.0


def summarize(sizes: Sequence[int], right: np.ndarray, shuffled: np.ndarray, settings: Settings) -> Findings:
    """Return what it comes to; the arrays are (sizes, 2, problems), exact match first."""
    rng = np.random.default_rng(settings.seed)
    n = right.shape[-1]
    draws = [right[..., rng.integers(0, n, n)].mean(-1) for _ in range(settings.resamples)]
    means = right.mean(-1)

    def estimate(label: str, measure_curves: Callable[[np.ndarray], float]) -> Estimate:
        """Return a figure of both curves (sizes, 2), with the interval of the bootstrap over problems."""
        low, high = np.quantile([measure_curves(draw) for draw in draws], [0.025, 0.975])
        return Estimate(label, measure_curves(means), float(low), float(high))

    def compare_jumps(curves: np.ndarray) -> float:
        return find_largest_jump(curves[:, 0]) - find_largest_jump(curves[:, 1])

    x = np.log10(sizes).tolist()
    lines = []
    for metric, name in enumerate(("exact match", "log-probability of a token")):
        points = []
        for i in range(len(sizes)):
            points.append(estimate(name, functools.partial(share_of_rise, metric=metric, place=i)))
        lines.append(Line(name, x, points))
    wrong = [estimate_share("shuffled answers", hits) for hits in shuffled[:, 0]]
    lines.append(Line("exact match, shuffled answers (as it is)", x, wrong))

    notes = []
    for size, (exact, logprob) in zip(sizes, means, strict=True):
        notes.append(f"{size:,} parameters: exact match {exact:.3f}, log-probability of a token {logprob:.3f}.")

    return Findings(
        n=n,
        unit="problems",
        effects=[
            estimate_mean("exact match rises by", right[-1, 0] - right[0, 0]),
            estimate("largest jump of exact match, above that of log-probability (shares of a rise)", compare_jumps),
        ],
        controls=[estimate_mean("exact match with shuffled answers rises by", shuffled[-1, 0] - shuffled[0, 0])],
        lines=lines,
        x_label="log10 of the parameters",
        y_label="share of the rise from the smallest to the largest",
        notes=notes,
    )


def share_of_rise(curves: np.ndarray, metric: int, place: int) -> float:
    """Return how far the curve of a metric has risen at a place, of its whole rise; ``curves`` is (sizes, 2)."""
    curve = curves[:, metric]
    rise = curve[-1] - curve[0]
    return float((curve[place] - curve[0]) / rise) if rise else 0.0
