"""The accuracy-token curve: its points, the coin, the oracle, the sweep."""

import json

import numpy as np
import pytest

from eval.curve import (
    ALWAYS,
    CHOICE,
    COIN,
    FORCED,
    NEVER,
    ORACLE,
    SWEEP,
    SWEEP_POINTS,
    Outcome,
    make_curve,
    mix_outcomes,
    plot_curve,
    toss_coin,
)


def outcome(correct, tokens):
    return Outcome(np.array(correct, dtype=float), np.array(tokens, dtype=float))


DIRECT = outcome([1, 0, 0, 0], [8, 8, 8, 8])
THINKING = outcome([1, 1, 1, 0], [40, 50, 60, 90])
BUDGETED = outcome([1, 1, 0, 0], [20, 20, 20, 20])
# Thinks on the second and third problem: all that thinking can gain.
LEARNT = outcome([1, 1, 1, 0], [8, 50, 60, 8])
PROBABILITY = np.array([0.9, 0.2, 0.1, 0.8])


@pytest.fixture
def curve():
    return make_curve(DIRECT, THINKING, {32: BUDGETED, 16: DIRECT}, LEARNT, PROBABILITY)


def find_points(curve, name):
    return [point for point in curve["points"] if point["name"] == name]


def test_the_ends_and_the_budgets_are_means(curve):
    [never], [always] = find_points(curve, NEVER), find_points(curve, ALWAYS)
    assert (never["tokens"], never["accuracy"]) == (8, 0.25)
    assert (always["tokens"], always["accuracy"]) == (60, 0.75)

    budgets = find_points(curve, FORCED)
    assert [(point["limit"], point["tokens"]) for point in budgets] == [(16, 8), (32, 20)]
    assert curve["n"] == 4


def test_the_coin_costs_what_the_choice_costs_and_lies_on_the_line(curve):
    [coin] = find_points(curve, COIN)
    share = (31.5 - 8) / (60 - 8)

    assert coin["tokens"] == pytest.approx(31.5)
    assert coin["accuracy"] == pytest.approx(0.25 + share * 0.5)
    assert curve["above_coin"]["value"] == pytest.approx(0.75 - coin["accuracy"])
    assert curve["above_coin"]["ci_low"] <= curve["above_coin"]["value"] <= curve["above_coin"]["ci_high"]


def test_a_coin_cannot_cost_more_than_always_thinking_or_less_than_never():
    dear = outcome([1, 1, 1, 1], [99, 99, 99, 99])
    cheap = outcome([0, 0, 0, 0], [1, 1, 1, 1])

    assert toss_coin(DIRECT, THINKING, dear).tokens.mean() == 60
    assert toss_coin(DIRECT, THINKING, cheap).tokens.mean() == 8
    assert toss_coin(DIRECT, DIRECT, dear).tokens.mean() == 8  # never and always cost the same


def test_the_oracle_thinks_only_where_that_helps(curve):
    [oracle] = find_points(curve, ORACLE)

    assert oracle["accuracy"] == 0.75
    assert oracle["tokens"] == (8 + 50 + 60 + 8) / 4


def test_the_sweep_thinks_first_where_the_direct_answer_is_least_likely(curve):
    sweep = find_points(curve, SWEEP)

    assert [point["limit"] for point in sweep] == [0.1, 0.2, 0.8, 0.9]
    assert [point["accuracy"] for point in sweep] == [0.25, 0.5, 0.75, 0.75]
    assert [point["tokens"] for point in sweep] == [8, 21, 31.5, 52]


def test_a_long_sweep_has_few_points():
    n = 500
    rng = np.random.default_rng(0)
    many = outcome(rng.integers(0, 2, n), rng.integers(1, 99, n))
    curve = make_curve(many, many, {}, many, rng.random(n))

    assert len(find_points(curve, SWEEP)) == SWEEP_POINTS
    assert find_points(curve, FORCED) == []


def test_mixing_takes_a_probability_for_each_problem():
    mixed = mix_outcomes(DIRECT, THINKING, np.array([0.0, 1.0, 0.5, 0.0]))

    assert mixed.correct.tolist() == [1, 1, 0.5, 0]
    assert mixed.tokens.tolist() == [8, 50, 34, 8]


def test_every_accuracy_has_its_interval(curve):
    for point in curve["points"]:
        assert 0 <= point["ci_low"] <= point["accuracy"] <= point["ci_high"] <= 1
    assert find_points(curve, CHOICE)[0]["ci_low"] < 0.75


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_curve_is_json_and_is_plotted_from_it(curve, tmp_path, suffix, start):
    path = tmp_path / f"curve{suffix}"
    plot_curve(json.loads(json.dumps(curve)), path)

    assert path.read_bytes().startswith(start)
