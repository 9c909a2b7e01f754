"""The verdict on a study: what the intervals of effects and controls come to."""

import dataclasses

import pytest

from eval.report import render_report
from eval.report.plots import save_study_plot
from eval.stats import bounded_interval
from eval.studies import (
    FAILS,
    HOLDS,
    UNSURE,
    Estimate,
    Findings,
    Line,
    estimate_mean,
    estimate_share,
    judge,
    make_result,
    to_markdown,
)

FLAT = Estimate("shuffled", 0.01, -0.05, 0.07)
CLEAR = Estimate("gain", 0.3, 0.2, 0.4)
MARGIN = 0.1


@pytest.fixture
def result():
    points = [Estimate("", 0.4, 0.3, 0.5), Estimate("", 0.8, 0.7, 0.9)]
    findings = Findings(100, "words", [CLEAR], [FLAT], [Line("real", ["<b>one", "two"], points)], "kind", "share")
    about = {"study": "made_up", "claim": "A claim.", "limits": "Its limits.", "base": "none"}
    return make_result(about, MARGIN, findings)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.11, 0.3, HOLDS), (0.02, 0.09, FAILS), (-0.3, -0.2, FAILS), (0.05, 0.2, UNSURE), (-0.2, 0.3, UNSURE)],
)
def test_the_verdict_is_where_the_interval_lies(low, high, verdict):
    effect = Estimate("gain", (low + high) / 2, low, high)
    assert judge([effect], [FLAT], MARGIN)[0] == verdict


@pytest.mark.parametrize("effect", [CLEAR, Estimate("gain", 0.0, -0.02, 0.02)])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.3), (-0.3, -0.2), (-0.01, 0.11), (-0.11, 0.01)])
def test_a_control_that_is_not_flat_leaves_every_verdict_open(effect, low, high):
    control = Estimate("shuffled", (low + high) / 2, low, high)
    verdict, reason = judge([effect], [FLAT, control], MARGIN)
    assert verdict == UNSURE
    assert "the control is not shown to be flat: shuffled" in reason


def test_a_control_that_may_fall_must_not_rise():
    assert judge([CLEAR], [Estimate("wrong", -0.3, -0.4, -0.2, may_fall=True)], MARGIN)[0] == HOLDS
    assert judge([CLEAR], [Estimate("wrong", 0.3, 0.2, 0.4, may_fall=True)], MARGIN)[0] == UNSURE


def test_every_effect_must_be_there():
    none = Estimate("other", 0.0, -0.02, 0.02)
    open_one = Estimate("third", 0.1, 0.0, 0.2)
    assert judge([CLEAR, none, open_one], [FLAT], MARGIN)[0] == FAILS
    assert judge([CLEAR, open_one], [FLAT], MARGIN)[0] == UNSURE


def test_few_values_that_are_alike_do_not_look_certain():
    low, high = bounded_interval([0.0] * 10)
    assert low == pytest.approx(-high)
    assert high == pytest.approx(1.96 / 12, rel=1e-3)
    assert bounded_interval([0.0] * 1000)[1] < 0.002

    # Of one pair that differs among ten, as of many, the interval holds the mean.
    one = estimate_mean("", [1.0, *[0.0] * 9])
    assert one.low < 0 < one.value == 0.1 < one.high
    share = estimate_share("", [1.0, 1.0, 0.0, 0.5])
    assert share.low < share.value == 0.625 < share.high


def test_the_summary_and_the_plot_show_what_was_measured(result, tmp_path):
    text = to_markdown(result)
    for words in ("# made_up: holds", "A claim.", "Its limits.", "- effect: gain 0.300 [0.200, 0.400]", "100 words"):
        assert words in text

    save_study_plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_has_a_section_of_the_studies(make_view, answer_correctly, result):
    view = make_view("base", ["sft"], 5, answer_correctly)
    assert "made_up" not in render_report([view])

    page = render_report([dataclasses.replace(view, studies=[result])])
    for words in ('href="#studies"', "made_up: holds", "A claim.", "Its limits."):
        assert words in page
    assert "<b>" not in page
    assert page.count("<svg") == render_report([view]).count("<svg") + 1
