"""Levels are drawn as often as their samples differ, and a draw depends on its number alone."""

from collections import Counter

import pytest

from data.problem import Problem
from pipeline.problem_sampler import ProblemSampler


@pytest.fixture
def pools():
    """A hundred problems of each of three levels."""
    levels = {}
    for name in ("easy", "middle", "hard"):
        levels[name] = [Problem(f"{name} {i}", "?", "1", "number") for i in range(100)]
    return levels


def count_levels(problems):
    return Counter(problem.id.split()[0] for problem in problems)


def test_a_level_is_drawn_as_often_as_its_samples_differ(pools):
    rates = {"easy": 0.98, "middle": 0.5, "hard": 0.0}
    sampler = ProblemSampler(pools, rates, seed=0)

    counts = count_levels(sampler.draw(i) for i in range(300))

    assert counts["middle"] > 230
    assert counts["easy"] > 0


def test_levels_of_unknown_rate_are_drawn_alike(pools):
    sampler = ProblemSampler(pools, {}, seed=0)

    counts = count_levels(sampler.draw(i) for i in range(300))

    assert min(counts.values()) > 70


def test_a_problem_comes_up_once_a_pass(pools):
    sampler = ProblemSampler({"easy": pools["easy"]}, {}, seed=0)

    first = [sampler.draw(i) for i in range(100)]
    second = [sampler.draw(i) for i in range(100, 200)]

    assert len(set(first)) == 100
    assert len(set(second)) == 100
    assert first != second


def test_all_problems_come_up_where_only_every_second_draw_is_used(pools):
    """Spare draws for groups without a signal are mostly left unused."""
    sampler = ProblemSampler({"easy": pools["easy"]}, {}, seed=0)

    drawn = {sampler.draw(i).id for i in range(0, 400, 2)}

    assert len(drawn) == 100


def test_a_draw_depends_on_seed_and_number_alone(pools):
    sampler = ProblemSampler(pools, {}, seed=0)
    other = ProblemSampler(pools, {}, seed=1)

    drawn = [sampler.draw(i) for i in range(50)]

    assert [sampler.draw(i) for i in range(49, -1, -1)] == drawn[::-1]
    assert [other.draw(i) for i in range(50)] != drawn
