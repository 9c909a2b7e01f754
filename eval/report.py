"""One HTML page for a run: the table, the levels, what accuracy costs, the curves, the errors, and every answer.

    python -m pipeline report [--base BASE] [--out FILE]      or: make report

The page holds all it needs: it opens without a network, and without JavaScript only its filters are missing. What
models wrote is escaped. Plots are SVG, in the colour of the text around them.
"""

import io
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from data.records import BadInput, read_completions, read_grades, read_problems, write_text
from eval import table
from eval.errors import KINDS, kind_of, wrong_step
from eval.extract import split_thought

MARKERS = "osD^vPX<>*hpd"  # readable without colour


LOGGED = {"reward": "reward", "mixed": "share of mixed groups", "entropy": "entropy, nats a token", "loss": "loss"}


def write(run_dir: Path, out: Path) -> None:
    """Write the page of runs/BASE to ``out``; BadInput where nothing was scored or a file is missing."""
    import jinja2

    rows = table.rows(run_dir, controls=True)
    table.check_beside(run_dir)
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    parts = [_benchmark(run_dir, name) for name in benchmarks]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    text = page.render(
        base=run_dir.name,
        headings=table.HEADINGS[1:],
        tables={name: [table.cells(row)[1:] for row in rows if row["benchmark"] == name] for name in benchmarks},
        note=table.NOTE,
        caveats=table.caveats(rows).splitlines(),
        parts=parts,
        levels=sorted({problem.level for part in parts for problem, _ in part["problems"]}),
        stages=list(dict.fromkeys(stage for part in parts for stage in part["stages"])),
        curves=_curves(run_dir),
        tradeoff=_tradeoff(run_dir),
        runs=_manifests(run_dir),
        kinds=KINDS,
    )
    write_text(out, text)


def _benchmark(run_dir: Path, name: str) -> dict[str, Any]:
    """What the page shows of one benchmark."""
    stages = table.stages_of(run_dir, controls=True)
    scored = {stage: best for stage in stages if (best := table.best_variant(run_dir, stage, name))}
    problems = read_problems(run_dir / "problems" / f"{name}.jsonl")
    answers: dict[str, list[dict[str, Any]]] = {problem.id: [] for problem in problems}
    errors: dict[str, Counter[str]] = {}
    for stage, entry in scored.items():
        completions = {c.id: c for c in read_completions(run_dir / stage / entry["completions"])}
        grades = {g.id: g for g in read_grades(run_dir / stage / entry["grades"])}
        errors[stage] = Counter()
        for problem in problems:
            if problem.id not in completions or problem.id not in grades:
                raise BadInput(f"{run_dir / stage}: no answer to {problem.id!r} of {name}; rerun the stage {stage}")
            completion, grade = completions[problem.id], grades[problem.id]
            kind = kind_of(problem, completion, grade)
            errors[stage][kind or "right"] += 1
            if kind is None and wrong_step(problem, completion.text):
                errors[stage]["through a wrong step"] += 1
            thought, rest, closed = split_thought(completion.text)
            answers[problem.id].append(
                {
                    "stage": stage,
                    "verdict": grade.verdict,
                    "kind": kind or "",
                    "extracted": grade.extracted,
                    "thought": thought.strip() if thought else "",
                    "closed": closed,
                    "rest": rest.strip(),
                    "tokens": completion.thinking_tokens + completion.answer_tokens,
                }
            )
    labels = ["right", "through a wrong step", *KINDS]
    return {
        "name": name,
        "stages": list(scored),
        "variants": {stage: entry["variant"] for stage, entry in scored.items()},
        "levels": {stage: entry["by_level"] for stage, entry in scored.items()},
        "families": {stage: entry["by_family"] for stage, entry in scored.items()},
        "errors": {
            label: [e[label] for e in errors.values()] for label in labels if any(e[label] for e in errors.values())
        },
        "cost": _cost(scored),
        "problems": [(problem, answers[problem.id]) for problem in problems],
        "n": len(problems),
    }


def _svg(draw) -> str:
    """A plot as SVG in the page's own colour; ``draw`` gets the axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ladder", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(5.2, 3.3), layout="constrained")
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    return _themed(buffer.getvalue())


def _themed(svg: str) -> str:
    # Texts have no fill of their own in matplotlib's SVG, so they are given the page's.
    return svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("<text ", '<text fill="currentColor" ')


def _cost(scored: dict[str, dict[str, Any]]) -> str:
    """Accuracy, with its interval, against tokens."""

    def draw(axes) -> None:
        for marker, (stage, entry) in zip(itertools.cycle(MARKERS), scored.items(), strict=False):
            low, value, high = (100 * entry[key] for key in ("ci_low", "accuracy", "ci_high"))
            error = [[value - low], [high - value]]
            axes.errorbar(entry["tokens_mean"], value, error, marker=marker, label=stage, linestyle="", capsize=3)
        axes.set(xlabel="tokens a problem", ylabel="accuracy, %", xlim=(0, None), ylim=(0, 100))
        axes.legend(frameon=False, fontsize=8)

    return _svg(draw)


def _curves(run_dir: Path) -> list[tuple[str, str]]:
    """(stage, plot) of accuracy and tokens on dev over the steps of each stage that kept a curve."""
    plots = []
    for path in sorted(run_dir.glob("*/curve.json")):
        points = json.loads(path.read_text(encoding="utf-8"))

        def draw(axes, points=points) -> None:
            steps = [point["step"] for point in points]
            axes.plot(steps, [100 * point["accuracy"] for point in points], "o-", label="accuracy on dev, %")
            axes.plot(steps, [point["tokens"] for point in points], "s--", label="tokens a problem")
            axes.set(xlabel="step", ylim=(0, None))
            axes.legend(frameon=False, fontsize=8)

        plots.append((path.parent.name, _svg(draw)))
    for path in sorted(run_dir.glob("*/train.jsonl")):
        log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

        def draw_log(axes, log=log) -> None:
            for line, key in zip(("o-", "s--", "^:", "D-."), ("reward", "mixed", "entropy", "loss"), strict=True):
                points = [(step["step"], step[key]) for step in log if key in step]
                if points:
                    axes.plot(*zip(*points, strict=True), line, label=LOGGED[key], markersize=4)
            axes.set(xlabel="step", ylim=(0, None))
            axes.legend(frameon=False, fontsize=8)

        plots.append((f"{path.parent.name}, in training", _svg(draw_log)))
    return plots


def _tradeoff(run_dir: Path) -> str:
    """The plot of all ways to decide how long to think; "" where ``make tradeoff`` has not been run."""
    plot = run_dir / "tradeoff" / "tradeoff.svg"
    return _themed(plot.read_text(encoding="utf-8")) if plot.is_file() else ""


def _manifests(run_dir: Path) -> list[dict[str, Any]]:
    """What each part of each stage was made with."""
    made = []
    for stage in table.stages_of(run_dir, controls=True):
        path = run_dir / stage / "manifest.json"
        if path.is_file():
            for part, about in json.loads(path.read_text(encoding="utf-8")).items():
                machine = about["hardware"]
                hardware = (
                    f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
                )
                row = {"stage": stage, "part": part, "hardware": hardware, "versions": about["versions"]}
                made.append(row | {key: about.get(key) for key in ("finished", "seconds", "commit")})
    return made
