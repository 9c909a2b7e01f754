"""The plots of the report, as SVG in the colours of the page around them."""

import io
import math
from collections.abc import Sequence
from typing import Any

import markupsafe

from eval.report.series import Series
from eval.run_view import StageView

WIDTH = 3.9  # inches

# Each series has its own, so a plot is readable without colour.
MARKERS = "osD^vPX<>*hpd"
LINES = ("o-", "s--")

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ladder",
    "text.parse_math": False,  # a name may have a dollar sign
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
}

# The panels of a stage's learning curves, by their axes: what is drawn of the points on dev and of the steps.
PANELS = {
    "accuracy on dev": ("accuracy",),
    "tokens on dev": ("tokens",),
    "reward": ("reward", "frac_reward_zero_std"),
    "loss": ("loss", "entropy"),
}


def plot_cost(series: Sequence[Series], title: str) -> str:
    """Return accuracy in percent, with its interval, against tokens."""
    figure = _make_figure(3.5)
    axes = figure.subplots()

    for place, one in enumerate(series):
        low, accuracy, high = [100 * one.scores[key] for key in ("ci_low", "accuracy", "ci_high")]
        axes.errorbar(
            one.scores["tokens_mean"],
            accuracy,
            [[accuracy - low], [high - accuracy]],
            marker=MARKERS[place % len(MARKERS)],
            fillstyle="none",
            linestyle="",
            capsize=3,
            label=one.label,
        )

    axes.set(xlabel="tokens a problem", ylabel="accuracy, %", xlim=(0, None), ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=3)
    return _to_svg(figure, title)


def plot_learning_curves(stage: StageView) -> str:
    """Return what was measured over the steps of a stage's training; "" where nothing was."""
    panels = {}
    for label, keys in PANELS.items():
        lines = {key: _collect_points(stage, key) for key in keys}
        if any(lines.values()):
            panels[label] = lines
    if not panels:
        return ""

    figure = _make_figure(0.5 + 1.4 * len(panels))
    grid = figure.subplots(len(panels), sharex=True, squeeze=False)
    for axes, (label, lines) in zip(grid.flat, panels.items(), strict=True):
        for look, (key, points) in zip(LINES, lines.items(), strict=False):
            if points:
                axes.plot(*zip(*points, strict=True), look, label=key, markersize=3.5)
        axes.set(ylabel=label, ylim=(min(0, axes.get_ylim()[0]), None))
        axes.legend()

    axes.set(xlabel="step")
    figure.align_ylabels()
    return _to_svg(figure, f"Learning curves of {stage.name}")


def _collect_points(stage: StageView, key: str) -> list[tuple[int, float]]:
    """Return (step, value) of each record that has the key."""
    points = []
    for record in [*stage.curve, *stage.training_log]:
        # A training that went wrong may have logged what is no number.
        if math.isfinite(record.get(key, math.nan)):
            points.append((record["step"], record[key]))
    return points


def _make_figure(height: float) -> Any:
    """Return an empty figure; the height is in inches."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.figure(figsize=(WIDTH, height), layout="constrained")


def _to_svg(figure: Any, title: str) -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)

    # Texts have no colour of their own in matplotlib's SVG, so they get the page's.
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = svg.replace("<text ", '<text fill="currentColor" ')
    return svg.replace("<svg ", f'<svg role="img" aria-label="{markupsafe.escape(title)}" ', 1)
