"""One HTML page for a run or several: table, levels, cost, curves, errors, studies, what was run, every answer.

The page (page.html) holds all that it needs and may fetch nothing: its content security policy lets only its own script
run. The answers are JSON, deflated and in base64, which the script (page.js) unpacks and shows as text, a few at a
time.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from eval import compare, table
from eval.errors import KINDS
from eval.report.plots import plot_cost, plot_learning_curves, plot_study
from eval.report.series import CORRECT, LUCKY, Series, collect_series
from eval.run_view import RunView

FOLDER = Path(__file__).resolve().parent


def render_report(runs: Sequence[RunView]) -> str:
    """Return the page of one run, or of several that are compared with the first.

    Raises:
        UserError: where several runs were scored on different problems or by different rules.
    """
    comparison = compare.compare_runs(runs) if len(runs) > 1 else []
    parts: dict[str, list[Series]] = {}
    problems: list[dict[str, Any]] = []
    # Each benchmark once, in the order of the runs.
    for benchmark in dict.fromkeys(name for run in runs for name in run.problems):
        parts[benchmark] = collect_series(runs, benchmark)
        problems += _describe_problems(runs, benchmark, parts[benchmark])

    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    # The content security policy names the script by its hash.
    script_hash = hashlib.sha256(script.encode()).digest()
    answers = zlib.compress(json.dumps(problems).encode(), 9)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        runs=runs,
        table=table,
        compare=compare,
        comparison=comparison,
        parts=parts,
        kinds=(CORRECT, LUCKY, *KINDS),
        plot_cost=plot_cost,
        plot_learning_curves=plot_learning_curves,
        plot_study=plot_study,
        count=len(problems),
        answers=_to_base64(answers),
        script=script,
        script_hash=_to_base64(script_hash),
    )


def _describe_problems(
    runs: Sequence[RunView],
    benchmark: str,
    series: Sequence[Series],
) -> list[dict[str, Any]]:
    """Return what the script shows of each problem."""
    # All runs have the same problems.
    problems = next(run.problems[benchmark] for run in runs if benchmark in run.problems)
    rows = []
    for problem in problems:
        rows.append(
            {
                "benchmark": benchmark,
                "level": problem.level,
                "family": problem.family,
                "question": problem.question,
                "answer": problem.answer,
                "answers": [one.answers[problem.id] for one in series],
            }
        )
    return rows


def _to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
