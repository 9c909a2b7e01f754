"""Before a GRPO training: what samples of dev problems say of whether it can learn, and on which levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from data.files import UserError
from eval.grade import grade

if TYPE_CHECKING:
    from pipeline.rollouts import Rollout

# Below this share of mixed groups most samples are wasted.
FEW_MIXED = 0.1

# Pass rates between which a level is worth its samples.
LEARNABLE = (0.1, 0.9)


class NoSignal(UserError):
    """The samples of every problem earn the same, so this recipe has nothing to teach this model."""


@dataclass(frozen=True)
class Learnability:
    """What the samples say.

    Args:
        problems: how many were sampled.
        samples: how often each was.
        pass_at_1: the share of right samples.
        pass_at_k: the share of problems with a right sample.
        mixed: the share of problems whose samples do not all earn the same.
        truncated: the share of samples that the token limit stopped.
        rates: the share of right samples by level.
    """

    problems: int
    samples: int
    pass_at_1: float
    pass_at_k: float
    mixed: float
    truncated: float
    rates: dict[str, float]

    def describe(self) -> str:
        """Return the verdict: it can learn, can hardly learn or cannot learn, and why."""
        share = f"{self.mixed:.0%} of the groups are mixed"
        if self.mixed >= FEW_MIXED:
            low, high = LEARNABLE
            levels = [level for level, rate in self.rates.items() if low <= rate <= high]
            most = f", most on {', '.join(levels)}" if levels else ""
            return f"can learn: {share}{most}"

        if self.mixed:
            return f"can hardly learn: only {share}: {self._explain()}"
        return f"cannot learn: no group is mixed: {self._explain()}"

    def _explain(self) -> str:
        if self.truncated > 0.5:
            return "most samples are truncated; raise max_completion_length or train sft on shorter solutions"
        if self.pass_at_k < 0.1:
            return "nearly none is ever solved; train sft longer or take easier levels"
        if self.pass_at_1 > 0.9:
            return "nearly all are solved already; take harder levels"
        return "the samples of each problem are alike; raise the temperature"

    def check(self, label: str) -> None:
        """Raises NoSignal where no group of samples is mixed."""
        if not self.mixed:
            raise NoSignal(f"{label} {self.describe()} (--set rl.learnability.samples=0 trains regardless)")


def estimate_learnability(levels: Sequence[str], groups: Sequence[Sequence[Rollout]]) -> Learnability:
    """Return what groups of samples of dev problems say; ``levels`` names the level of each group."""
    pass_rates = []
    mixed = []
    truncated = []
    by_level: dict[str, list[float]] = {}

    # Correctness says what the problems are like, reward what there is to learn.
    for level, group in zip(levels, groups, strict=True):
        rate = fmean(grade(rollout.problem, rollout.completion).correct for rollout in group)
        pass_rates.append(rate)
        by_level.setdefault(level, []).append(rate)

        mixed.append(is_mixed([rollout.reward.total for rollout in group]))
        truncated += [rollout.completion.finish == "length" for rollout in group]

    return Learnability(
        problems=len(groups),
        samples=len(groups[0]),
        pass_at_1=fmean(pass_rates),
        pass_at_k=fmean(rate > 0 for rate in pass_rates),
        mixed=fmean(mixed),
        truncated=fmean(truncated),
        rates={level: fmean(rates) for level, rates in by_level.items()},
    )


def is_mixed(rewards: Sequence[float]) -> bool:
    """Return whether a group of samples carries a signal: its rewards are not all the same."""
    return len(set(rewards)) > 1
