"""Which problems RL trains on: by level, as often as their samples differ.

A group teaches only where some of its samples earn more than others, and the gradient's size follows the variance of
the reward, p (1 - p) at a pass rate of p. So a level is drawn by that, times the number of its problems, and its rate
is followed as training goes on (levels by pass rate: Kimi k1.5, arXiv 2501.12599, section 2.3.4).
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from data.records import Problem

LEARNABLE = (0.1, 0.9)  # pass rates between which a level is worth its samples
MEMORY = 0.9  # of a level's earlier samples, each time it is sampled again


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
