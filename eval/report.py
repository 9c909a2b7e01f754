"""One HTML page for a run, or for several: the table, the levels, what accuracy costs, the curves, the errors, what was
run, and every answer.

    python -m pipeline report [--base BASE] [--out FILE]                  or: make report
    python -m pipeline report --bases BASE BASE [...] [--out FILE]        or: make report BASES="..."

The page holds all it needs and may fetch nothing: its content security policy lets only its own script run. Plots are
SVG in the colour of the text around them. The answers are JSON, deflated and in base64, which the script unpacks and
shows as text, a few problems at a time.
"""

import base64
import hashlib
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.records import BadInput, Problem, read_completions, read_grades, read_problems, write_text
from eval import bases, table, tradeoff
from eval.errors import KINDS, kind_of, wrong_step
from eval.extract import split_thought

LUCKY = "through a wrong step"  # the kind of a right answer that was reached so
# Readable without colour: a stage has its marker, a base the way that it is filled.
MARKERS = "osD^vPX<>*hpd"
FILLS = ("none", "full", "left", "right", "top", "bottom")
STYLE: Any = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ladder", "font.size": 10, "text.parse_math": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9},
    **{"axes.grid": True, "grid.color": "#888888", "grid.alpha": 0.25, "grid.linewidth": 0.6},
}
LINES = ("o-", "s--", "^:")
# The panels of a stage's learning curves, from top to bottom: (file, label of the axis, key -> label and factor).
PANELS: tuple[tuple[str, str, dict[str, tuple[str, float]]], ...] = (
    ("curve.json", "on dev, %", {"accuracy": ("accuracy", 100), "thinks": ("thinks", 100)}),
    ("curve.json", "on dev, tokens", {"tokens": ("all tokens", 1)}),
    ("train.jsonl", "in training, %", {"reward": ("reward", 100), "mixed": ("mixed groups", 100)}),
    ("train.jsonl", "in training, nats", {"loss": ("loss", 1), "entropy": ("entropy", 1)}),
)


def write(run_dirs: Mapping[str, Path], out: Path) -> None:
    """Write the page of the runs, base -> runs/BASE, to ``out``. BadInput where nothing was scored, a file is missing,
    or the bases were scored on different problems."""
    import jinja2

    runs = [_run(base, folder) for base, folder in run_dirs.items()]
    between = bases.rows(run_dirs) if len(runs) > 1 else []
    parts = [_benchmark(run_dirs, name) for name in dict.fromkeys(name for run in runs for name in run["tables"])]
    answers = [problem for part in parts for problem in part.pop("problems")]
    script = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    text = page.render(
        runs=runs,
        headings=table.HEADINGS[1:],
        note=table.NOTE,
        between=[bases.cells(row) for row in between],
        between_headings=bases.HEADINGS,
        between_note=bases.NOTE,
        parts=parts,
        levels=sorted({problem["level"] for problem in answers}),
        families=sorted({problem["family"] for problem in answers} - {""}),
        stages=list(dict.fromkeys(series["stage"] for part in parts for series in part["series"])),
        verdicts=sorted({answer["verdict"] for problem in answers for answer in problem["answers"]}),
        kinds=[kind for kind in (LUCKY, *KINDS) if any(kind in part["errors"] for part in parts)],
        count=len(answers),
        answers=base64.b64encode(zlib.compress(json.dumps(answers).encode(), 9)).decode(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(out, text)


def _run(base: str, run_dir: Path) -> dict[str, Any]:
    """What the page shows of one run as a whole."""
    rows = table.rows(run_dir, controls=True)
    table.check_beside(run_dir)
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    made = _manifests(run_dir)
    return {
        "base": base,
        "tables": {name: [table.cells(row)[1:] for row in rows if row["benchmark"] == name] for name in benchmarks},
        "caveats": table.caveats(rows).splitlines(),
        "curves": _curves(run_dir),
        "tradeoff": _tradeoff(run_dir),
        "made": made,
        "hardware": list(dict.fromkeys(part["hardware"] for part in made)),
        "finished": max((part["finished"] for part in made if part["finished"]), default=""),
        "recipes": {
            stage: path.read_text(encoding="utf-8")
            for stage in table.stages_of(run_dir, controls=True)
            if (path := run_dir / stage / "recipe.yaml").is_file()
        },
    }


def _benchmark(run_dirs: Mapping[str, Path], name: str) -> dict[str, Any]:
    """What the page shows of one benchmark. A series is what one stage of one base scored, with its best variant."""
    series: list[dict[str, Any]] = []
    problems: dict[str, Problem] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for base, run_dir in run_dirs.items():
        for stage in table.stages_of(run_dir, controls=True):
            entry = table.best_variant(run_dir, stage, name)
            if entry is None:
                continue
            if not problems:
                problems = {p.id: p for p in read_problems(run_dir / "problems" / f"{name}.jsonl")}
                answers = {identity: [] for identity in problems}
            one = {"base": base, "stage": stage, "label": f"{base} {stage}" if len(run_dirs) > 1 else stage}
            counts: Counter[str] = Counter()
            for identity, answer in _answers(run_dir / stage, entry, problems, name):
                answers[identity].append(one | answer)
                counts[answer["kind"]] += 1
                counts["right"] += answer["verdict"] == "correct"
            series.append(entry | one | {"counts": counts})
    return {
        "name": name,
        "n": len(problems),
        "series": series,
        "groups": {title: _groups(series, key) for title, key in (("level", "by_level"), ("family", "by_family"))},
        "errors": {
            label: [one["counts"][label] for one in series]
            for label in ("right", LUCKY, *KINDS)
            if any(one["counts"][label] for one in series)
        },
        "cost": _cost(series, name),
        "problems": [
            {
                "benchmark": name,
                "level": p.level,
                "family": p.family,
                "question": p.question,
                "answer": p.answer,
                "answers": answers[p.id],
            }
            for p in problems.values()
        ],
    }


def _groups(series: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    """group -> number of problems, of the levels or families that a benchmark has; none where it has but one."""
    groups = {group: counted["n"] for group, counted in series[0][key].items()}
    return groups if len(groups) > 1 else {}


def _answers(stage_dir: Path, entry: Mapping[str, Any], problems: Mapping[str, Problem], name: str):
    """(problem id, what the page shows of the answer) of each problem; BadInput where one has none."""
    completions = {c.id: c for c in read_completions(stage_dir / entry["completions"])}
    grades = {g.id: g for g in read_grades(stage_dir / entry["grades"])}
    for identity, problem in problems.items():
        if identity not in completions or identity not in grades:
            raise BadInput(f"{stage_dir}: no answer to {identity!r} of {name}; rerun the stage {stage_dir.name}")
        completion, grade = completions[identity], grades[identity]
        kind = kind_of(problem, completion, grade) or (LUCKY if wrong_step(problem, completion.text) else "")
        thought, rest, closed = split_thought(completion.text)
        yield (
            identity,
            {
                "verdict": grade.verdict,
                "kind": kind,
                "extracted": grade.extracted,
                "thought": thought.strip() if thought else "",
                "closed": closed,
                "rest": rest.strip(),
                "tokens": completion.thinking_tokens + completion.answer_tokens,
            },
        )


def _svg(title: str, draw: Callable[[Any], None], height: float) -> str:
    """A plot as SVG in the page's own colour; ``draw`` gets the figure, ``height`` is in inches, to 3.9 of width."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(3.9, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return _themed(buffer.getvalue(), title)


def _themed(svg: str, title: str) -> str:
    import markupsafe

    # Texts have no fill of their own in matplotlib's SVG, so they are given the page's.
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("<text ", '<text fill="currentColor" ')
    return svg.replace("<svg ", f'<svg role="img" aria-label="{markupsafe.escape(title)}" ', 1)


def _cost(series: Sequence[Mapping[str, Any]], name: str) -> str:
    """Accuracy, with its interval, against tokens."""
    stages = list(dict.fromkeys(one["stage"] for one in series))
    several = list(dict.fromkeys(one["base"] for one in series))

    def look(stage: int, base: int) -> dict[str, Any]:
        known = {"marker": MARKERS[stage % len(MARKERS)], "fillstyle": FILLS[base % len(FILLS)], "linestyle": ""}
        return known | {"color": f"C{(base if len(several) > 1 else stage) % 10}", "markersize": 8}

    def draw(figure) -> None:
        axes = figure.subplots()
        for one in series:
            low, value, high = (100 * one[key] for key in ("ci_low", "accuracy", "ci_high"))
            style = look(stages.index(one["stage"]), several.index(one["base"]))
            error = [[value - low], [high - value]]
            axes.errorbar(one["tokens_mean"], value, error, fmt="none", color=style["color"], alpha=0.6, capsize=3)
            axes.plot(one["tokens_mean"], value, **style)
        for i, stage in enumerate(stages):
            axes.plot([], [], **look(i, 0) | ({"color": "k"} if len(several) > 1 else {}), label=stage)
        for i, base in enumerate(several if len(several) > 1 else []):
            axes.plot([], [], **look(0, i), label=base)
        most = max(one["tokens_mean"] for one in series)
        axes.set(xlabel="tokens a problem", ylabel="accuracy, %", xlim=(0, 1.08 * most or 1), ylim=(0, 100))
        figure.legend(loc="outside lower center", ncols=3)

    return _svg(f"Accuracy against tokens on {name}", draw, 3.5)


def _curves(run_dir: Path) -> list[tuple[str, str]]:
    """(stage, plot) of each stage that was trained: on dev, then in training, over the steps."""
    plots = []
    for stage in table.stages_of(run_dir, controls=True):
        logs = {file: _read(run_dir / stage / file) or [] for file in ("curve.json", "train.jsonl")}
        panels = []
        for file, label, keys in PANELS:
            lines = {
                name: [(point["step"], factor * _value(point[key])) for point in logs[file] if key in point]
                for key, (name, factor) in keys.items()
            }
            # A training that went wrong may have logged what is no number.
            lines = {name: [point for point in points if math.isfinite(point[1])] for name, points in lines.items()}
            if any(lines.values()):
                panels.append((label, {name: points for name, points in lines.items() if points}))

        def draw(figure, panels=panels) -> None:
            for axes, (label, lines) in zip(
                figure.subplots(len(panels), sharex=True, squeeze=False).flat, panels, strict=True
            ):
                for look, (name, points) in zip(LINES, lines.items(), strict=False):
                    axes.plot(*zip(*points, strict=True), look, label=name, markersize=3.5, linewidth=1.2)
                values = [value for points in lines.values() for _, value in points]
                most = max(values + [100] * label.endswith("%"))
                axes.set(ylabel=label, ylim=(min(0, 1.1 * min(values)), 1.08 * most or 1))
                axes.legend()
            axes.set(xlabel="step")
            figure.align_ylabels()

        if panels:
            plots.append((stage, _svg(f"Learning curves of {stage}", draw, 0.5 + 1.4 * len(panels))))
    return plots


def _read(path: Path) -> Any:
    """What a file of JSON, or of JSON lines, holds; None where there is none."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}); rerun the stage {path.parent.name}") from None


def _value(value: float | dict[str, float]) -> float:
    """A logged number; the mean of one that is kept by level, of which each has as many problems."""
    return sum(value.values()) / len(value) if isinstance(value, dict) else value


def _tradeoff(run_dir: Path) -> str:
    """The plot of all ways to decide how long to think; "" where ``make tradeoff`` was not run with these stages."""
    if not tradeoff.current(run_dir):
        return ""
    plot = (run_dir / "tradeoff" / "tradeoff.svg").read_text(encoding="utf-8")
    return _themed(plot, "Accuracy against tokens, of all ways")


def _manifests(run_dir: Path) -> list[dict[str, Any]]:
    """What each part of each stage was made with."""
    made = []
    for stage in table.stages_of(run_dir, controls=True):
        for part, about in (_read(run_dir / stage / "manifest.json") or {}).items():
            machine = about["hardware"]
            hardware = (
                f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
            )
            row = {"stage": stage, "part": part, "hardware": hardware, "versions": about["versions"]}
            made.append(row | {key: about.get(key) for key in ("finished", "seconds", "commit", "source")})
    return made
