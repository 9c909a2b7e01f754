"""What samples of dev problems say of a training to come."""

from dataclasses import dataclass

import pytest

from data.problem import Completion, Problem
from pipeline.learnability import Learnability, NoSignal, estimate_learnability, is_mixed
from pipeline.rewards import RewardScore

PROBLEM = Problem("p1", "What is 3 + 3?", "6", "number")


@dataclass(frozen=True)
class Sample:
    problem: Problem
    completion: Completion
    reward: RewardScore


def make_group(*rights, finish="stop"):
    """Samples of the problem, each right or wrong."""
    group = []
    for is_right in rights:
        text = f"<think>\n3 + 3\n</think>\n\\boxed{{{6 if is_right else 99}}}"
        group.append(Sample(PROBLEM, Completion("p1", text, 1, 1, 1, finish), RewardScore(float(is_right), {})))
    return group


MIXED = make_group(0, 1, 0, 1)
NEVER = make_group(0, 0, 0, 0)
ALWAYS = make_group(1, 1, 1, 1)


def test_the_estimate_counts_what_the_samples_say():
    found = estimate_learnability(["1", "1", "2", "2", "3", "3"], [MIXED, MIXED, NEVER, NEVER, ALWAYS, ALWAYS])

    assert found == Learnability(
        problems=6,
        samples=4,
        pass_at_1=0.5,
        pass_at_k=pytest.approx(4 / 6),
        mixed=pytest.approx(2 / 6),
        truncated=0,
        rates={"1": 0.5, "2": 0.0, "3": 1.0},
    )
    assert found.describe() == "can learn: 33% of the groups are mixed, most on 1"
    found.check("rl")


@pytest.mark.parametrize(
    ("group", "reason"), [(NEVER, "nearly none is ever solved"), (ALWAYS, "nearly all are solved already")]
)
def test_a_training_without_a_mixed_group_is_refused_with_the_reason(group, reason):
    found = estimate_learnability(["1"], [group])

    with pytest.raises(NoSignal, match=f"rl cannot learn: no group is mixed: {reason}"):
        found.check("rl")


def test_truncated_samples_are_the_reason_where_most_are():
    found = estimate_learnability(["1"], [make_group(0, 0, finish="length")])

    assert "most samples are truncated; raise max_completion_length" in found.describe()


def test_a_few_mixed_groups_are_little_to_learn_from():
    found = Learnability(100, 4, 0.97, 0.99, 0.04, 0.0, {"1": 0.97})

    assert found.describe() == (
        "can hardly learn: only 4% of the groups are mixed: nearly all are solved already; take harder levels"
    )


def test_a_group_is_mixed_where_its_rewards_differ():
    assert is_mixed([0.0, 1.0])
    assert not is_mixed([1.0, 1.0])
