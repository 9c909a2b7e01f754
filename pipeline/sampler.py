"""Which problems RL trains on: by level, as often as their samples differ; and what a collapse looks like.

A group teaches only where some of its samples earn more than others, and the gradient's size follows the variance of
the reward, p (1 - p) at a pass rate of p. So a level is drawn by that, times the number of its problems, and its rate
is followed as training goes on (levels by pass rate: Kimi k1.5, arXiv 2501.12599, section 2.3.4).
"""

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from data.records import Problem

LEARNABLE = (0.1, 0.9)  # pass rates between which a level is worth its samples
MEMORY = 0.9  # of a level's earlier samples, each time it is sampled again
FIRST = 2  # steps with which the last ones are compared


class Sampler:
    """Draws problems of ``pools`` (level -> problems, in the order they are used, then over again); ``rates`` are the
    pass rates to begin with, as (right, samples)."""

    def __init__(self, pools: Mapping[str, Sequence[Problem]], rates: Mapping[str, tuple[float, float]]) -> None:
        self.pools = {level: list(problems) for level, problems in pools.items() if problems}
        self.rates = {level: tuple(rates.get(level, (0.0, 0.0))) for level in self.pools}
        self.used = dict.fromkeys(self.pools, 0)

    def rate(self, level: str) -> float:
        """The pass rate of a level; a half where nothing is known."""
        right, samples = self.rates[level]
        return (right + 0.5) / (samples + 1)

    def draw(self, count: int, seed: str) -> list[tuple[str, Problem]]:
        """(level, problem) of the next ``count`` groups."""
        levels = list(self.pools)
        weights = [len(self.pools[level]) * self.rate(level) * (1 - self.rate(level)) for level in levels]
        drawn = []
        for level in random.Random(seed).choices(levels, weights, k=count):
            pool = self.pools[level]
            drawn.append((level, pool[self.used[level] % len(pool)]))
            self.used[level] += 1
        return drawn

    def note(self, level: str, right: Sequence[float]) -> None:
        """Count a group's samples, each 1.0 where it was right."""
        old, samples = self.rates[level]
        self.rates[level] = (MEMORY * old + sum(right), MEMORY * samples + len(right))

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on."""
        return {"rates": dict(self.rates), "used": dict(self.used)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state."""
        self.rates = {level: tuple(rate) for level, rate in state["rates"].items()}
        self.used = dict(state["used"])


def alarm(steps: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, float]], content: bool) -> str | None:
    """What is wrong with a training by its steps' log and its dev curve; None where nothing is.

    The last steps are compared with the first ones level by level, since the sampler changes the levels it draws; what
    falls on dev must be more than chance. ``content``: whether the samples are the model's own from the first token, so
    that their reward, length and entropy say something.
    """
    if len(curve) > 1:
        first, last, n = curve[0]["accuracy"], curve[-1]["accuracy"], curve[0]["n"]
        if last < 0.75 * first and first - last > 2 * math.sqrt(first * (1 - first) / n):
            return f"accuracy on dev fell from {first:.1%} to {last:.1%}"
    if steps and steps[-1]["drift"] > 0.1:
        return (
            f"the samples are not the trained model's: their log-probabilities differ by {steps[-1]['drift']:.2f} nats "
            "a token from what it gives them"
        )
    moved = [0.0, *(step["moved"] for step in steps)][-FIRST - 1 :]
    if len(moved) > FIRST and len(set(moved)) == 1:
        return f"no weight has moved in {FIRST} steps"
    if not content or len(steps) < 2 * FIRST:
        return None
    begun, now = (fmean(step["entropy"] for step in part) for part in (steps[:FIRST], steps[-FIRST:]))
    if now < 0.1 * begun:
        return f"the entropy fell from {begun:.3f} to {now:.3f} nats a token"
    before, after = _by_level(steps[:FIRST]), _by_level(steps[-FIRST:])
    shared = before.keys() & after.keys()
    if not shared:
        return None
    first_of, last_of = (
        {key: fmean(part[level][key] for level in shared) for key in ("reward", "length", "boxed", "correct")}
        for part in (before, after)
    )
    if first_of["reward"] > 0 and last_of["reward"] < 0.5 * first_of["reward"]:
        return f"the reward fell from {first_of['reward']:.2f} to {last_of['reward']:.2f}"
    if not 0.5 * first_of["length"] <= last_of["length"] <= 2 * first_of["length"]:
        return f"the length went from {first_of['length']:.0f} to {last_of['length']:.0f} tokens"
    if last_of["boxed"] > first_of["boxed"] + 0.1 and last_of["correct"] < first_of["correct"] - 0.1:
        return (
            f"the form climbed from {first_of['boxed']:.0%} to {last_of['boxed']:.0%} while right answers fell from "
            f"{first_of['correct']:.0%} to {last_of['correct']:.0%}"
        )
    return None


def _by_level(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The means of some steps' samples, by level."""
    levels = {level for step in steps for level in step["levels"]}
    return {
        level: {
            key: fmean(step["levels"][level][key] for step in steps if level in step["levels"])
            for key in ("reward", "length", "boxed", "correct")
        }
        for level in levels
    }
