"""What the figures of a study come to: one verdict for all studies, and their summary in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.stats import bounded_interval, wilson_interval

HOLDS = "holds"
FAILS = "does not hold here"
UNSURE = "cannot tell at this size"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    ``may_fall``: as a control it must not gain, but it may lose, as a wrong offset leads away from the right word.
    """

    label: str
    value: float
    low: float
    high: float
    may_fall: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a study's plot: the label of each point on the axis (or its place), and the point itself."""

    label: str
    x: Sequence[str | float]
    points: Sequence[Estimate]


@dataclass(frozen=True)
class Findings:
    """What a study measured.

    Args:
        n: the problems (pairs, sentences, ...) that the effects are means over.
        unit: what they are, in the plural.
        effects: each must lie above the margin for the claim to hold.
        controls: each must lie within the margin of 0.
        lines: what the plot shows.
        x_label, y_label: of its axes.
        notes: further figures, a sentence each.
    """

    n: int
    unit: str
    effects: Sequence[Estimate]
    controls: Sequence[Estimate]
    lines: Sequence[Line]
    x_label: str
    y_label: str
    notes: Sequence[str] = field(default_factory=tuple)


def estimate_mean(label: str, values: Iterable[float], may_fall: bool = False) -> Estimate:
    """Return the mean of values in [-1, 1], one a problem, such as paired differences of correctness.

    Of no values it is 0, with an interval that says nothing.
    """
    # True and False too. They are summed exactly, so that their order changes no digit.
    values = [float(value) for value in values]
    mean = math.fsum(values) / max(1, len(values))
    low, high = bounded_interval(values)
    return Estimate(label, mean, low, high, may_fall)


def estimate_share(label: str, values: Iterable[float]) -> Estimate:
    """Return the mean of values in [0, 1], one a problem."""
    values = [float(value) for value in values]
    total = math.fsum(values)
    low, high = wilson_interval(total, len(values))
    return Estimate(label, total / len(values), low, high)


def make_line(label: str, points: Mapping[Any, Any]) -> Line:
    """Return the line of mean values; ``points`` has for each place on the axis values in [0, 1], one a problem.

    A place of no values has no point.
    """
    estimates = {place: estimate_share(label, values) for place, values in points.items() if len(values)}
    return Line(label, list(estimates), list(estimates.values()))


def subtract(label: str, one: Estimate, other: Estimate) -> Estimate:
    """Return the difference of two means that are over different problems.

    Source: R. G. Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17, p. 873-890, method 10.
    """
    value = one.value - other.value
    # The difference is lowest where the first mean is low and the second one high; they are not both so at once.
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(label, value, low, high)


def judge(effects: Sequence[Estimate], controls: Sequence[Estimate], margin: float) -> tuple[str, str]:
    """Return the verdict on a claim, and the reason for it.

    Args:
        effects: The claim holds where each one's whole interval lies above the margin, and does not hold where one's
            lies below it.
        controls: A control is flat where its whole interval lies within the margin of 0. Unless all are, what the
            effects show may be something else.
        margin: The smallest effect that counts.
    """
    # First: where a control moves, what the effects show may have the same cause.
    for control in controls:
        is_flat = control.high < margin and (control.may_fall or control.low > -margin)
        if not is_flat:
            return UNSURE, f"the control is not shown to be flat: {describe(control)}"

    # One that is not there is enough, whatever the others are.
    for effect in effects:
        if effect.high < margin:
            return FAILS, f"less than the margin: {describe(effect)}"
    for effect in effects:
        if effect.low <= margin:
            return UNSURE, f"the interval reaches to both sides of the margin: {describe(effect)}"
    return HOLDS, "every effect lies above the margin, and every control within it"


def describe(estimate: Estimate) -> str:
    """Return a figure and its interval in words."""
    return f"{estimate.label} {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def make_result(about: Mapping[str, Any], margin: float, findings: Findings) -> dict[str, Any]:
    """Return what result.json holds.

    Args:
        about: ``study`` (its name), ``claim``, ``limits`` (what a reader may and may not conclude) and ``base``.
        margin: The smallest effect that counts.
        findings: What was measured.
    """
    verdict, reason = judge(findings.effects, findings.controls, margin)
    judged = {"verdict": verdict, "reason": reason, "margin": margin}
    return {**about, **judged, **asdict(findings)}


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the summary of a result."""
    lines = []
    for role in ("effect", "control"):
        for fields in result[f"{role}s"]:
            estimate = Estimate(**fields)
            lines.append(f"- {role}: {describe(estimate)}")

    paragraphs = [
        f"# {result['study']}: {result['verdict']}",
        result["claim"],
        f"On {result['base']}, {result['n']} {result['unit']}: {result['reason']}.",
        "\n".join(lines),
        f"An effect counts above {result['margin']}, and a control is flat within it. Intervals are of 95 %.",
        *result["notes"],
        result["limits"],
        "![The figures](plot.png)",
    ]
    return "\n\n".join(paragraphs) + "\n"
