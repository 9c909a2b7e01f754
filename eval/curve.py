"""Accuracy against tokens: several ways to decide on which problems to think, on the same problems.

The ends that all ways share are never and always thinking. Between them: thinking cut off at forced budgets; the
learnt choice; the choices of a threshold over the probability of the direct answer; a coin that costs as much as the
learnt choice; and an oracle that knows the outcomes and thinks only where that makes a wrong answer correct. No choice
between the two ends can be better than the oracle's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.stats import wilson_interval

NEVER = "never think"
ALWAYS = "always think"
FORCED = "forced budget"
CHOICE = "learnt choice"
SWEEP = "threshold"
COIN = "coin"
ORACLE = "oracle"

SWEEP_POINTS = 21
RESAMPLES = 1000


@dataclass(frozen=True)
class Outcome:
    """What one way to answer came to on each problem: two arrays of shape (problems,).

    ``correct`` is 0 or 1, or the chance to be correct; ``tokens`` counts thinking and answer together.
    """

    correct: np.ndarray
    tokens: np.ndarray

    def take(self, rows: np.ndarray) -> "Outcome":
        """Return the outcome on some of the problems."""
        return Outcome(self.correct[rows], self.tokens[rows])


def mix_outcomes(never: Outcome, always: Outcome, thinking: np.ndarray | float) -> Outcome:
    """Return the outcome of thinking on each problem or not, or with a probability: (problems,), or one for all."""
    correct = never.correct + thinking * (always.correct - never.correct)
    tokens = never.tokens + thinking * (always.tokens - never.tokens)
    return Outcome(correct, tokens)


def toss_coin(never: Outcome, always: Outcome, choice: Outcome) -> Outcome:
    """Return the expected outcome of a coin that costs as many tokens as the choice, as far as a coin can."""
    # The same share of problems, whatever they are: that is what makes it a coin.
    cheapest = never.tokens.mean()
    extra = choice.tokens.mean() - cheapest
    width = always.tokens.mean() - cheapest
    share = extra / width if width > 0 else 0.0
    # A choice may cost less than the one end, or more than the other.
    share = np.clip(share, 0, 1)
    return mix_outcomes(never, always, share)


def ask_oracle(never: Outcome, always: Outcome) -> Outcome:
    """Return the outcome of thinking only where that makes a wrong answer correct."""
    # Not where both are wrong: that would only cost tokens.
    return mix_outcomes(never, always, always.correct > never.correct)


def make_curve(
    never: Outcome,
    always: Outcome,
    forced: Mapping[int, Outcome],
    choice: Outcome,
    direct_probability: np.ndarray,
) -> dict[str, Any]:
    """Return the points of the accuracy-token curve, ready for JSON.

    Args:
        never: the outcome of direct answers.
        always: the outcome of thinking on every problem.
        forced: the outcome under each limit on the thinking tokens.
        choice: the outcome of the learnt choice, decoded greedily.
        direct_probability: (problems,), what the model gives the direct answer.

    Returns:
        ``n``, ``points`` (name, limit, tokens, accuracy, ci_low, ci_high; the limit is a budget's or a threshold's)
        and ``above_coin``: how far the learnt choice is more accurate than a coin of the same cost (value, ci_low,
        ci_high by bootstrap over problems).
    """
    points = [_make_point(NEVER, never), _make_point(ALWAYS, always)]
    for budget, outcome in sorted(forced.items()):
        points.append(_make_point(FORCED, outcome, budget))

    # Below the threshold the direct answer is too unlikely, so the model thinks.
    for threshold in _pick_thresholds(direct_probability):
        outcome = mix_outcomes(never, always, direct_probability < threshold)
        points.append(_make_point(SWEEP, outcome, float(threshold)))

    coin = toss_coin(never, always, choice)
    oracle = ask_oracle(never, always)
    points.append(_make_point(CHOICE, choice))
    points.append(_make_point(COIN, coin))
    points.append(_make_point(ORACLE, oracle))
    return {
        "n": len(never.correct),
        "points": points,
        "above_coin": _compare_to_coin(never, always, choice),
    }


def _make_point(name: str, outcome: Outcome, limit: float | None = None) -> dict[str, Any]:
    n = len(outcome.correct)
    total = float(outcome.correct.sum())
    low, high = wilson_interval(total, n)
    return {
        "name": name,
        "limit": limit,
        "tokens": float(outcome.tokens.mean()),
        "accuracy": float(outcome.correct.mean()),
        "ci_low": low,
        "ci_high": high,
    }


def _pick_thresholds(probability: np.ndarray) -> np.ndarray:
    """Return thresholds evenly spaced among the values that occur: only those change a choice."""
    values = np.unique(probability)
    count = min(SWEEP_POINTS, len(values))
    places = np.linspace(0, len(values) - 1, count)
    return values[places.round().astype(int)]


def _compare_to_coin(never: Outcome, always: Outcome, choice: Outcome) -> dict[str, float]:
    # A fixed seed: the same files give the same interval.
    rng = np.random.default_rng(0)
    n = len(never.correct)
    draws = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, n, n)
        # The coin costs what the choice costs on these very problems.
        draws.append(_measure_gain(never.take(rows), always.take(rows), choice.take(rows)))

    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "value": _measure_gain(never, always, choice),
        "ci_low": float(low),
        "ci_high": float(high),
    }


def _measure_gain(never: Outcome, always: Outcome, choice: Outcome) -> float:
    """Return how far the choice is more accurate than the coin."""
    coin = toss_coin(never, always, choice)
    return float(choice.correct.mean() - coin.correct.mean())


def plot_curve(curve: Mapping[str, Any], path: Path) -> None:
    """Plot a curve into a file, whose suffix names the format (.png, .svg)."""
    # Slow to import, and only plots need it.
    from matplotlib.figure import Figure

    # A colour, a marker, and a line where a limit moves the point.
    styles = {
        NEVER: "kx",
        ALWAYS: "k*",
        FORCED: "C0s-",
        SWEEP: "C1.-",
        CHOICE: "C2D",
        COIN: "C3o",
        ORACLE: "C4P",
    }
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()

    for name, style in styles.items():
        points = [point for point in curve["points"] if point["name"] == name]
        # Lines go from left to right.
        points.sort(key=lambda point: point["tokens"])
        _plot_points(axes, points, style, name)

    # Between the two ends, a coin reaches every point of a straight line.
    _plot_points(axes, curve["points"][:2], "k:")

    axes.set(
        xlabel="tokens a problem",
        ylabel="accuracy, %",
        title=f"n = {curve['n']}",
        xlim=(0, None),
    )
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def _plot_points(
    axes: Any,
    points: Sequence[Mapping[str, Any]],
    style: str,
    label: str | None = None,
) -> None:
    tokens = [point["tokens"] for point in points]
    accuracy = [100 * point["accuracy"] for point in points]
    axes.plot(tokens, accuracy, style, label=label)
