"""Several runs in one table: two bases, two recipes or two rewards, paired on the same problems."""

from collections.abc import Mapping, Sequence

from data.files import UserError
from eval import table
from eval.run_view import RunView
from eval.stats import mcnemar_p

HEADINGS = (
    "benchmark",
    "stage",
    "run",
    "variant",
    "n",
    "accuracy",
    "tokens",
    "thinking",
    "p",
    "p Holm",
)

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

Correct = dict[tuple[str, str], bool]  # (benchmark, id of the problem) -> verdict


def compare_runs(runs: Sequence[RunView]) -> list[table.Row]:
    """Return a row for each benchmark, stage and run, without controls.

    A row is that of the run's own table, with ``run`` and ``p_vs_first``, which is None in the rows of the first run
    and where that has no such row; ``p_holm`` is its correction.

    Raises:
        UserError: where the runs were scored on different problems or by different rules.
    """
    for run in runs[1:]:
        check_comparable(runs[0], run, RULES)

    # The order of the first run; what only others have comes last.
    places: dict[tuple[str, str], None] = {}
    for run in runs:
        for row in run.rows:
            if row["stage"] not in table.BASELINES and not row["control"]:
                places[row["benchmark"], row["stage"]] = None

    rows = []
    for benchmark, stage in places:
        rows += _compare_stage(runs, benchmark, stage)

    table.correct_p_values(rows, "p_vs_first")
    return rows


def check_comparable(first: RunView, other: RunView, rules: Mapping[str, str]) -> None:
    """Raise UserError where two runs were scored on different problems, or differ in one of the rules."""
    # The stages of one run have their rules in common: its table has checked that.
    expected = first.stages[0].scores
    actual = other.stages[0].scores
    for key, label in rules.items():
        if actual[key] != expected[key]:
            raise UserError(
                f"{first.name} and {other.name} were scored with another {label} ({expected[key]} and {actual[key]}); "
                "run one of them again with the other's"
            )

    # A benchmark that only one of them has is in nobody's way.
    for benchmark, problems in first.problems.items():
        if other.problems.get(benchmark, problems) != problems:
            raise UserError(
                f"{benchmark}: {first.name} and {other.name} were scored on different problems; run both again with "
                "the same benchmark and LIMIT"
            )


def _compare_stage(runs: Sequence[RunView], benchmark: str, stage: str) -> list[table.Row]:
    """Return the rows of one stage on one benchmark, in the order of the runs."""
    rows = []
    first: Correct = {}

    for run in runs:
        rivals = []
        for row in run.rows:
            if (row["benchmark"], row["stage"]) == (benchmark, stage):
                rivals.append(row)
        if not rivals:
            continue
        best = max(rivals, key=lambda row: row["accuracy"])
        correct = collect_correct(run, best)

        p_value = None
        if run is runs[0]:
            first = correct
        # Not where the first run has no such row, or one over other benchmarks.
        elif first.keys() == correct.keys():
            ours = [correct[key] for key in first]
            p_value = mcnemar_p(ours, list(first.values()))
        rows.append({"run": run.name, **best, "p_vs_first": p_value, "p_holm": None})
    return rows


def collect_correct(run: RunView, row: table.Row) -> Correct:
    """Return the verdicts that a row of a run's table is made from, by benchmark and problem."""
    [stage] = [stage for stage in run.stages if stage.name == row["stage"]]
    correct: Correct = {}
    for (variant, benchmark), grades in stage.grades.items():
        if variant == row["variant"] and row["benchmark"] in (benchmark, table.POOLED):
            correct |= {(benchmark, grade.id): grade.correct for grade in grades}
    return correct


def format_row(row: table.Row) -> list[str]:
    """Return a row as texts, one for each of ``HEADINGS``."""
    # As in a table of one run, but for what it is tested against.
    texts = table.format_row(row | {"p_vs_previous": row["p_vs_first"]})
    cells = dict(zip(table.HEADINGS, texts, strict=True))
    cells["run"] = row["run"]
    return [cells[heading] for heading in HEADINGS]


def to_markdown(rows: Sequence[table.Row]) -> str:
    """Return the rows as a GitHub Markdown table, with the notes under it."""
    text = table.format_markdown(HEADINGS, map(format_row, rows))
    return f"{text}\n{NOTE}\n{table.list_caveats(rows)}"
