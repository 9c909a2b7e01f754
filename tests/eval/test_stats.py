"""Intervals and tests, against scipy and by enumeration."""

import math
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from eval.stats import (
    bounded_interval,
    detectable_difference,
    holm,
    mcnemar_p,
    pass_at_k,
    sign_flip_p,
    wilson_interval,
)


@settings(deadline=None)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(case):
    correct, n = case
    expected = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")

    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_nonsense(correct, n):
    with pytest.raises(ValueError):
        wilson_interval(correct, n)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_mcnemar_agrees_with_scipy(pairs):
    a = [first for first, _ in pairs]
    b = [second for _, second in pairs]
    only_a = sum(first > second for first, second in pairs)
    only_b = sum(second > first for first, second in pairs)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0

    assert mcnemar_p(a, b) == pytest.approx(expected)
    assert mcnemar_p(b, a) == mcnemar_p(a, b)


def test_mcnemar_takes_many_problems_and_equal_lengths_only():
    assert mcnemar_p([True] * 20_000, [False] * 20_000) == 0.0
    assert mcnemar_p([True, False] * 10_000, [False, True] * 10_000) == 1.0
    with pytest.raises(ValueError):
        mcnemar_p([True], [])


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flips_are_counted_by_enumeration(differences):
    observed = abs(sum(differences))
    flips = list(product((1, -1), repeat=len(differences)))
    extreme = [flip for flip in flips if abs(sum(map(math.prod, zip(flip, differences, strict=True)))) >= observed]

    assert sign_flip_p(differences) == len(extreme) / len(flips)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
def test_sign_flips_of_one_seed_are_mcnemar(pairs):
    a = [first for first, _ in pairs]
    b = [second for _, second in pairs]
    assert sign_flip_p([first - second for first, second in pairs]) == pytest.approx(mcnemar_p(a, b))


def test_sign_flips_take_many_problems():
    assert sign_flip_p([3] * 1000) == pytest.approx(2 / 2**1000)
    assert sign_flip_p([2, -2] * 500) == 1.0


def test_the_interval_of_a_mean_stays_where_the_mean_can_be():
    assert bounded_interval([1.0] * 3) == (pytest.approx(0.019, abs=0.001), 1.0)
    assert bounded_interval([-1.0] * 3) == (-1.0, pytest.approx(-0.019, abs=0.001))


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_of_k_samples_that_hold_a_correct_one(case):
    n, correct, k = case
    draws = list(combinations(range(n), k))
    expected = sum(min(draw) < correct for draw in draws) / len(draws)

    assert pass_at_k(k, n, correct) == pytest.approx(expected)


@pytest.mark.parametrize(("k", "n", "correct"), [(0, 3, 1), (4, 3, 1), (1, 3, 4)])
def test_pass_at_k_refuses_nonsense(k, n, correct):
    with pytest.raises(ValueError):
        pass_at_k(k, n, correct)


@pytest.mark.parametrize(("n", "changed"), [(120, 0.2), (500, 0.2), (500, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(n, changed):
    """By exact enumeration of McNemar's test, which is a little more cautious than Connor's approximation."""
    difference = detectable_difference(n, changed)
    # Of the pairs that differ, the share in which the better one is correct.
    better = (changed + difference) / 2 / changed

    power = 0.0
    for pairs in range(n + 1):
        weight = math.comb(n, pairs) * changed**pairs * (1 - changed) ** (n - pairs)
        if weight <= 1e-5:
            continue
        for wins in range(pairs + 1):
            losses = pairs - wins
            p_value = mcnemar_p([True] * wins + [False] * losses, [False] * wins + [True] * losses)
            if p_value <= 0.05:
                power += weight * math.comb(pairs, wins) * better**wins * (1 - better) ** losses

    assert 0.74 <= power <= 0.82
    assert detectable_difference(4 * n, changed) == pytest.approx(difference / 2, rel=0.1)


def test_too_few_problems_detect_nothing():
    assert detectable_difference(20, 0.2) == pytest.approx(0.2)
