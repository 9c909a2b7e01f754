"""The plots of the report, as SVG in the colours of the page around them."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.report.series import Series
from eval.run_view import TrainingLog

WIDTH = 3.9  # inches
STUDY_SIZE = (6.5, 4.2)  # inches

# Each series has its own, so a plot is readable without colour.
MARKERS = "osD^vPX<>*hpd"
LINES = ("o-", "s--")
DASHES = ("-", "--", ":", "-.")

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

# What points on dev go by: rounds of expert iteration, shares of the way to stage 5's trained weights, or steps.
PLACES = ("round", "share", "step")

# The panels of a stage's learning curves, by their axes: what is drawn of the points on dev and of the steps.
DEV_PANELS = {
    "accuracy on dev": ("accuracy",),
    "tokens on dev": ("tokens",),
}
PANELS = DEV_PANELS | {
    "reward": ("reward", "frac_reward_zero_std"),
    "loss": ("loss", "entropy"),
}


def plot_cost(series: Sequence[Series], title: str) -> str:
    """Return accuracy in percent, with its interval, against tokens."""
    figure = _make_figure(WIDTH, 3.5)
    axes = figure.subplots()

    for place, one in enumerate(series):
        scores = one.scores
        accuracy = 100 * scores["accuracy"]
        below = accuracy - 100 * scores["ci_low"]
        above = 100 * scores["ci_high"] - accuracy
        axes.errorbar(
            scores["tokens_mean"],
            accuracy,
            [[below], [above]],
            marker=MARKERS[place % len(MARKERS)],
            fillstyle="none",
            linestyle="",
            capsize=3,
            label=one.label,
        )

    axes.set(
        xlabel="tokens a problem",
        ylabel="accuracy, %",
        xlim=(0, None),
        ylim=(0, 100),
    )
    figure.legend(loc="outside lower center", ncols=3)
    return _to_svg(figure, title)


def plot_learning_curves(training: TrainingLog, title: str) -> str:
    """Return what was measured over the steps of a training."""
    panels = {}
    for label, keys in PANELS.items():
        lines = {key: _collect_points(training, key) for key in keys}
        if any(lines.values()):
            panels[label] = lines

    # All points of a curve go by the same.
    dev_axis = _find_place(training.curve[0])

    figure = _make_figure(WIDTH, 1.7 * len(panels))
    grid = figure.subplots(len(panels), squeeze=False)
    for axes, (label, lines) in zip(grid.flat, panels.items(), strict=True):
        for look, (key, points) in zip(LINES, lines.items(), strict=False):
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, look, label=key, markersize=3.5)

        # From 0 on, or from below where a value is negative.
        lowest, _ = axes.get_ylim()
        bottom = min(0, lowest)
        place = dev_axis if label in DEV_PANELS else "step"
        axes.set(
            xlabel=place,
            ylabel=label,
            ylim=(bottom, None),
        )
        axes.locator_params(axis="x", integer=place != "share")
        axes.legend()

    figure.align_ylabels()
    return _to_svg(figure, title)


def plot_study(result: Mapping[str, Any]) -> str:
    """Return the plot of a study."""
    return _to_svg(_draw_study(result), f"The study {result['study']}")


def save_study_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of a study as a PNG file."""
    _draw_study(result).savefig(path, dpi=150)


def _draw_study(result: Mapping[str, Any]) -> Any:
    """Return the lines of a study with their intervals, readable in black and white."""
    figure = _make_figure(*STUDY_SIZE)
    axes = figure.subplots()
    lines = result["lines"]

    # Numbers are their own places, and names stand side by side.
    xs = [x for line in lines for x in line["x"]]
    names = [x for x in dict.fromkeys(xs) if isinstance(x, str)]
    places = {name: place for place, name in enumerate(names)}

    # A little apart, so that intervals do not hide each other.
    step = 0.12 if names else 0.008 * (max(xs) - min(xs))
    middle = (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        shift = step * (number - middle)
        # Between names there is nothing that a line could show.
        dashes = "" if names else DASHES[number % len(DASHES)]
        values = [point["value"] for point in line["points"]]
        below = [point["value"] - point["low"] for point in line["points"]]
        above = [point["high"] - point["value"] for point in line["points"]]
        axes.errorbar(
            [places.get(x, x) + shift for x in line["x"]],
            values,
            [below, above],
            marker=MARKERS[number % len(MARKERS)],
            fillstyle="none",
            linestyle=dashes,
            capsize=3,
            label=line["label"],
        )

    if names:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    elif all(isinstance(x, int) for x in xs):
        # There is nothing between whole numbers, such as layers.
        axes.locator_params(axis="x", integer=True)

    axes.set(
        xlabel=result["x_label"],
        ylabel=result["y_label"],
    )
    title = f"{result['study']} on {result['base']}, n = {result['n']} {result['unit']}"
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _find_place(record: Mapping[str, Any]) -> str:
    """Return by which of PLACES a record goes."""
    return next(place for place in PLACES if place in record)


def _collect_points(training: TrainingLog, key: str) -> list[tuple[float, float]]:
    """Return (place, value) of each record that has the key."""
    points = []
    for record in [*training.curve, *training.steps]:
        value = record.get(key, math.nan)
        # A training that went wrong may have logged what is no number.
        if math.isfinite(value):
            place = _find_place(record)
            points.append((record[place], value))
    return points


def _make_figure(width: float, height: float) -> Any:
    """Return an empty figure; both are in inches."""
    # Slow to import, and only plots need it.
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def _to_svg(figure: Any, title: str) -> str:
    # Without a date the same plot gives the same bytes.
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})

    # Within a page the SVG begins with its element.
    svg = buffer.getvalue()
    start = svg.index("<svg")
    svg = svg[start:].replace("#000000", "currentColor")

    # Texts have no colour of their own in matplotlib's SVG, so they get the page's.
    svg = svg.replace("<text ", '<text fill="currentColor" ')

    # What a screen reader says of it.
    label = markupsafe.escape(title)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
