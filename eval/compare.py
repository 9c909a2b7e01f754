"""Several runs in one table: two bases, two recipes or two rewards, paired on the same problems."""

from collections.abc import Sequence
from typing import Any

from data.files import UserError
from eval import table
from eval.run_view import RunView
from eval.stats import holm, mcnemar_p

HEADINGS = ("benchmark", "stage", "run", "variant", "n", "accuracy", "tokens", "thinking", "p", "p Holm")
TEXT_HEADINGS = HEADINGS[:4]

NOTE = """\
Of each stage the most accurate variant, in percent with its 95 % interval (Wilson), and the mean tokens of a text and
of its thought. p: exact two-sided McNemar test against the same stage of the first run, on the same problems. p Holm:
the same, corrected for the number of tests in the table (Holm).
"""

# What runs must have in common to be compared, and what a message calls it.
RULES = {
    "extraction_version": "version of the extraction",
    "max_new_tokens": "eval.generation.max_new_tokens",
}

Correct = dict[tuple[str, str], bool]


def compare_runs(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """Return a row for each benchmark, stage and run, without controls.

    A row is that of the run's own table, with ``run``, and with ``p_vs_first`` in place of ``p_vs_previous``. It is
    None in the first run's rows, and where the first run has no such row.

    Raises:
        UserError: where the runs were scored on different problems or by different rules.
    """
    _check_rules(runs)
    _check_problems(runs)

    numbers = {}
    for run in runs:
        for stage in run.stages:
            if not stage.scores["control"]:
                numbers[stage.name] = stage.scores["number"]

    rows = []
    for benchmark in dict.fromkeys(row["benchmark"] for run in runs for row in run.rows):
        for stage_name in sorted(numbers, key=lambda name: numbers[name]):
            rows += _compare_stage(runs, benchmark, stage_name)

    tested = [row for row in rows if row["p_vs_first"] is not None]
    corrected = holm([row["p_vs_first"] for row in tested])
    for row, p_value in zip(tested, corrected, strict=True):
        row["p_holm"] = p_value
    return rows


def _check_rules(runs: Sequence[RunView]) -> None:
    # The stages of one run have their rules in common: its table has checked that.
    first = runs[0]
    expected = first.stages[0].scores

    for run in runs[1:]:
        actual = run.stages[0].scores
        for key, label in RULES.items():
            if actual[key] != expected[key]:
                raise UserError(
                    f"{first.name} and {run.name} were scored with another {label} ({expected[key]} and "
                    f"{actual[key]}); run one of them again with the other's"
                )


def _check_problems(runs: Sequence[RunView]) -> None:
    first_of: dict[str, RunView] = {}
    for run in runs:
        for benchmark, problems in run.problems.items():
            first = first_of.setdefault(benchmark, run)
            if first.problems[benchmark] != problems:
                raise UserError(
                    f"{benchmark}: {first.name} and {run.name} were scored on different problems; run both again with "
                    "the same benchmark and LIMIT"
                )


def _compare_stage(runs: Sequence[RunView], benchmark: str, stage: str) -> list[dict[str, Any]]:
    """Return the rows of one stage on one benchmark, in the order of the runs."""
    first_correct: Correct | None = None
    rows = []

    for run in runs:
        candidates = [row for row in run.rows if (row["benchmark"], row["stage"]) == (benchmark, stage)]
        if not candidates:
            continue
        best = max(candidates, key=lambda row: row["accuracy"])
        correct = _collect_correct(run, best)

        row = {"run": run.name, **best, "p_vs_first": None, "p_holm": None}
        del row["p_vs_previous"], row["compared_to"]
        if run is runs[0]:
            first_correct = correct
        elif first_correct is not None and first_correct.keys() == correct.keys():
            row["p_vs_first"] = mcnemar_p([correct[key] for key in first_correct], list(first_correct.values()))
        rows.append(row)
    return rows


def _collect_correct(run: RunView, row: dict[str, Any]) -> Correct:
    """Return the verdicts that a row of a run's table is made from, by benchmark and problem."""
    [stage] = [stage for stage in run.stages if stage.name == row["stage"]]
    correct = {}
    for (variant, benchmark), grades in stage.grades.items():
        if variant == row["variant"] and row["benchmark"] in (benchmark, table.POOLED):
            correct |= {(benchmark, grade.id): grade.correct for grade in grades}
    return correct


def format_row(row: dict[str, Any]) -> list[str]:
    """Return a row as texts, one for each of ``HEADINGS``."""
    texts = table.format_row(row | {"p_vs_previous": row["p_vs_first"]})
    cells = dict(zip(table.HEADINGS, texts, strict=True))
    cells["run"] = row["run"]
    return [cells[heading] for heading in HEADINGS]


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a GitHub Markdown table, with the notes under it."""
    lines = [list(HEADINGS)]
    lines.append(["---" if heading in TEXT_HEADINGS else "--:" for heading in HEADINGS])
    for row in rows:
        lines.append([cell.replace("|", "\\|") for cell in format_row(row)])

    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    caveats = "".join(f"- {line}\n" for line in table.describe_caveats(rows))
    return f"{text}\n{NOTE}\n{caveats}"
