"""The plots of the report, as SVG in the colours of the page around them."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from eval.report.series import Series
from eval.run_view import StageView

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

# The panels of a stage's learning curves, by their axes: what is drawn of the points on dev and of the steps.
PANELS = {
    "accuracy on dev": ("accuracy",),
    "tokens on dev": ("tokens",),
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


def plot_learning_curves(stage: StageView) -> str:
    """Return what was measured over the steps of a stage's training; "" where nothing was."""
    panels = {}
    for label, keys in PANELS.items():
        lines = {key: _collect_points(stage, key) for key in keys}
        if any(lines.values()):
            panels[label] = lines
    if not panels:
        return ""

    figure = _make_figure(WIDTH, 0.5 + 1.4 * len(panels))
    grid = figure.subplots(len(panels), sharex=True, squeeze=False)
    for axes, (label, lines) in zip(grid.flat, panels.items(), strict=True):
        for look, (key, points) in zip(LINES, lines.items(), strict=False):
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, look, label=key, markersize=3.5)

        # From 0 on, or from below where a value is negative.
        lowest, _ = axes.get_ylim()
        axes.set(ylabel=label, ylim=(min(0, lowest), None))
        axes.legend()

    axes.set(xlabel="step")
    figure.align_ylabels()
    return _to_svg(figure, f"Learning curves of {stage.name}")


def plot_study(result: Mapping[str, Any]) -> str:
    """Return the plot of a study."""
    return _to_svg(_draw_study(result), f"The study {result['study']}")


def save_study_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot of a study as a PNG file."""
    from matplotlib import pyplot

    figure = _draw_study(result)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_study(result: Mapping[str, Any]) -> Any:
    """Return the lines of a study with their intervals, readable in black and white."""
    figure = _make_figure(*STUDY_SIZE)
    axes = figure.subplots()

    xs = [x for line in result["lines"] for x in line["x"]]
    places = {name: place for place, name in enumerate(dict.fromkeys(xs)) if isinstance(name, str)}
    step = 0.12 if places else 0.008 * (max(xs) - min(xs))
    for number, line in enumerate(result["lines"]):
        # A little apart, so that intervals do not hide each other.
        shift = step * (number - (len(result["lines"]) - 1) / 2)
        x = [places.get(x, x) + shift for x in line["x"]]
        low, y, high = [[point[key] for point in line["points"]] for key in ("low", "value", "high")]
        errors = [[b - a for a, b in zip(one, two, strict=True)] for one, two in ((low, y), (y, high))]
        # Between names there is nothing that a line could show.
        look: Any = {
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "" if places else DASHES[number % len(DASHES)],
        }
        axes.errorbar(x, y, errors, **look, fillstyle="none", capsize=3, label=line["label"])

    if places:
        axes.set_xticks(range(len(places)), list(places), rotation=30, ha="right")
    elif all(isinstance(x, int) for x in xs):
        axes.locator_params(axis="x", integer=True)
    axes.set(xlabel=result["x_label"], ylabel=result["y_label"])
    axes.set_title(f"{result['study']} on {result['base']}, n = {result['n']} {result['unit']}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _collect_points(stage: StageView, key: str) -> list[tuple[int, float]]:
    """Return (step, value) of each record that has the key."""
    points = []
    for record in [*stage.curve, *stage.training_log]:
        # A training that went wrong may have logged what is no number.
        if math.isfinite(record.get(key, math.nan)):
            points.append((record["step"], record[key]))
    return points


def _make_figure(width: float, height: float) -> Any:
    """Return an empty figure; both are in inches."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.figure(figsize=(width, height), layout="constrained")


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
