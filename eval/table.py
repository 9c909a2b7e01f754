"""The one table: what each stage scores on the same problems, and what it costs in tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from data.datasets import Dataset
from data.files import UserError, sha256_json
from data.problem import Grade
from eval.stats import detectable_difference, holm, mcnemar_p, wilson_interval

POOLED = "all"  # the benchmark that holds the problems of all
BASELINES = ("chance", "majority")

Row = dict[str, Any]  # by the names of the README and of table.json

# Means over the problems, so pooling weights them by their numbers.
MEANS = (
    "tokens_mean",
    "thinking_tokens_mean",
    "thinking_rate",
    "format_rate",
    "truncated_rate",
    "undecided_rate",
)

# What a row takes over from the scores of a benchmark.
SCORES = (
    "benchmark_sha256",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    *MEANS,
    "seconds",
    "overlaps",
)

# What all rows of a table must have in common, and what a message calls it.
RULES = {
    "extraction_version": "version of the extraction",
    "base": "base",
    "load": "base.load",
    "max_new_tokens": "eval.generation.max_new_tokens",
}

# The share of problems with another verdict for which the smallest detectable difference is given.
CHANGED = 0.2

NOTE = """\
Accuracy is in percent of the n problems, with its 95 % interval (Wilson). Tokens are means over all problems: thinking
and answer together, then the thinking alone. "thinks", "boxed", "truncated" and "undecided" are the percent of texts
with reasoning, with a boxed answer, stopped by the token limit, and with an answer that the grader could neither accept
nor reject. One completion a problem, decoded greedily. "all" pools the problems of all benchmarks.

p: exact two-sided McNemar test against the best variant of the stages named below, on the same problems. "Best" is the
highest accuracy on these very problems, which favours the earlier stage. p Holm: the same, corrected for the number of
tests in the table (Holm). A control is tested against the stage it imitates.

chance picks one of a problem's choices; majority gives each family's most common answer, by its text or its letter.
"""


@dataclass(frozen=True)
class StageScores:
    """A scored stage: its scores.json, the grades by (variant, benchmark), and the profile it was scored under."""

    name: str
    scores: dict[str, Any]
    grades: dict[tuple[str, str], list[Grade]]
    profile: str = ""


@dataclass(frozen=True)
class _Entry:
    """One variant of a stage on one benchmark."""

    stage: StageScores
    variant: str
    scores: dict[str, Any]  # of the benchmark, as in scores.json
    correct: dict[tuple[str, str], bool]  # (benchmark, id of the problem) -> verdict

    @property
    def benchmark(self) -> str:
        return self.scores["benchmark"]

    @property
    def label(self) -> str:
        return f"{self.stage.name} ({self.variant})"


def make_rows(stages: Sequence[StageScores]) -> list[Row]:
    """Return the rows of the table, benchmark by benchmark, in the order of the stages.

    With several benchmarks the rows of all problems together come first. A benchmark's first rows are what guessing
    gets (:func:`eval.score.guess_baselines`), exact, so without an interval. ``p_vs_previous`` is None for these, and
    where no stage that the row is compared to has the benchmark.

    Raises:
        UserError: where nothing was scored, or stages were scored on different problems or by different rules.
    """
    if not stages:
        raise UserError("the table: no stage has scores; run one first, for example: make plain")
    _check_rules(stages)

    entries = [entry for stage in stages for entry in _list_entries(stage)]
    _check_problems(entries)
    entries = _pool_benchmarks(entries) + entries

    rows = []
    # Benchmark by benchmark; within each, the order of the stages.
    for benchmark in dict.fromkeys(entry.benchmark for entry in entries):
        rivals = [entry for entry in entries if entry.benchmark == benchmark]
        rows += [_make_guess_row(name, rivals[0]) for name in BASELINES]
        rows += [_make_row(entry, rivals) for entry in rivals]

    correct_p_values(rows, "p_vs_previous")
    return rows


def correct_p_values(rows: Sequence[Row], key: str) -> None:
    """Set ``p_holm`` of the rows that have a p-value under a key."""
    # Only these are tests: more of them would make each count for less.
    tested = [row for row in rows if row[key] is not None]
    corrected = holm([row[key] for row in tested])
    for row, p_value in zip(tested, corrected, strict=True):
        row["p_holm"] = p_value


def _check_rules(stages: Sequence[StageScores]) -> None:
    first = stages[0]
    for stage in stages:
        for key, label in RULES.items():
            expected = first.scores[key]
            actual = stage.scores[key]
            if actual != expected:
                raise UserError(
                    f"{first.name} and {stage.name} were scored with another {label} ({expected!s:.12} and "
                    f"{actual!s:.12}); run both with the same settings, or give one a folder of its own: RUNS="
                )


def _list_entries(stage: StageScores) -> list[_Entry]:
    entries = []
    for variant in stage.scores["variants"]:
        name = variant["variant"]
        for scores in variant["benchmarks"]:
            benchmark = scores["benchmark"]
            # Two benchmarks may use the same ids.
            grades = stage.grades[name, benchmark]
            correct = {(benchmark, grade.id): grade.correct for grade in grades}
            entries.append(_Entry(stage, name, scores, correct))
    return entries


def group_benchmarks(benchmarks: Sequence[Dataset]) -> dict[str, list[Dataset]]:
    """Return each benchmark by its name, after all together where there are several, as in the table."""
    groups = {benchmark.name: [benchmark] for benchmark in benchmarks}
    return {POOLED: list(benchmarks), **groups} if len(groups) > 1 else groups


def _check_problems(entries: Sequence[_Entry]) -> None:
    first_of: dict[str, _Entry] = {}
    for entry in entries:
        first = first_of.setdefault(entry.benchmark, entry)
        # The same file may be read up to another limit, so the ids are compared, too.
        same_file = entry.scores["benchmark_sha256"] == first.scores["benchmark_sha256"]

        if not same_file or entry.correct.keys() != first.correct.keys():
            raise UserError(
                f"{first.label} and {entry.label} were scored on different problems of {entry.benchmark}; "
                "run both again with the same benchmark and limit"
            )


def _pool_benchmarks(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return an entry over all benchmarks for each variant that has all; none where there is one benchmark."""
    benchmarks = {entry.benchmark for entry in entries}
    if len(benchmarks) < 2:
        return []

    variants: dict[str, list[_Entry]] = {}
    for entry in entries:
        variants.setdefault(entry.label, []).append(entry)

    # A part of the benchmarks may be the easier part.
    whole = [parts for parts in variants.values() if len(parts) == len(benchmarks)]
    return list(map(_pool, whole))


def _pool(parts: Sequence[_Entry]) -> _Entry:
    scores = [part.scores for part in parts]
    sizes = [part["n"] for part in scores]

    correct: dict[tuple[str, str], bool] = {}
    for part in parts:
        correct |= part.correct
    low, high = wilson_interval(sum(correct.values()), len(correct))

    # In whatever order they were scored.
    checksums = sorted(part["benchmark_sha256"] for part in scores)
    pooled: dict[str, Any] = {
        "benchmark": POOLED,
        "benchmark_sha256": sha256_json(checksums),
        "n": len(correct),
        "accuracy": fmean(correct.values()),
        "ci_low": low,
        "ci_high": high,
    }
    for key in ("seconds", "overlaps"):
        pooled[key] = sum(part[key] for part in scores)
    for key in (*MEANS, *BASELINES):
        pooled[key] = fmean([part[key] for part in scores], sizes)
    return _Entry(parts[0].stage, parts[0].variant, pooled, correct)


def _make_row(entry: _Entry, rivals: Sequence[_Entry]) -> Row:
    """Return the row of an entry; ``rivals`` are all entries of its benchmark."""
    stage = entry.stage
    row: Row = {
        "benchmark": entry.benchmark,
        "stage": stage.name,
        "variant": entry.variant,
    }
    for key in SCORES:
        row[key] = entry.scores[key]

    row["profile"] = stage.profile
    row["alarm"] = stage.scores["alarm"]
    row["control"] = stage.scores["control"]
    row["compared_to"] = stage.scores["compared_to"]
    row["p_vs_previous"] = None
    row["p_holm"] = None

    earlier = [rival for rival in rivals if rival.stage.name in row["compared_to"]]
    if earlier:
        best = max(earlier, key=lambda rival: rival.scores["accuracy"])
        # The grades may be in another order.
        best_correct = [best.correct[key] for key in entry.correct]
        row["p_vs_previous"] = mcnemar_p(list(entry.correct.values()), best_correct)
    return row


def _make_guess_row(name: str, entry: _Entry) -> Row:
    """Return the row of a baseline that reads no problem, from any stage's scores of the benchmark."""
    # The same keys as any other row; what does not apply is None.
    row = dict.fromkeys(_make_row(entry, []))
    for key in ("benchmark", "benchmark_sha256", "n"):
        row[key] = entry.scores[key]
    for key in ("accuracy", "ci_low", "ci_high"):
        row[key] = entry.scores[name]
    for key in (*MEANS, "seconds"):
        row[key] = 0.0
    return row | {
        "stage": name,
        "variant": "",
        "overlaps": 0,
        "control": False,
        "compared_to": [],
    }


TEXT_HEADINGS = ("benchmark", "stage", "run", "variant")  # all others are numbers
NUMBER_HEADINGS = (
    "n",
    "accuracy",
    "tokens",
    "thinking",
    "thinks",
    "boxed",
    "truncated",
    "undecided",
    "seconds",
)
HEADINGS = ("benchmark", "stage", "variant", *NUMBER_HEADINGS, "p", "p Holm")


def format_row(row: Row) -> list[str]:
    """Return a row as texts, one for each of ``HEADINGS``."""
    accuracy = f"{100 * row['accuracy']:.1f}"
    if row["stage"] in BASELINES:
        # All other cells are empty: guessing has no interval and writes nothing.
        cells = [row["benchmark"], row["stage"], "", str(row["n"]), accuracy]
        empty = len(HEADINGS) - len(cells)
        return cells + [""] * empty

    rates = [row[key] for key in MEANS if key.endswith("_rate")]
    return [
        row["benchmark"],
        mark_stage(row),
        row["variant"],
        str(row["n"]),
        f"{accuracy} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]",
        f"{row['tokens_mean']:.1f}",
        f"{row['thinking_tokens_mean']:.1f}",
        *(f"{100 * rate:.1f}" for rate in rates),
        f"{row['seconds']:.0f}",
        format_p(row["p_vs_previous"]),
        format_p(row["p_holm"]),
    ]


def mark_stage(row: Row) -> str:
    """Return a row's stage, with the star that the caveats explain."""
    return row["stage"] + (" *" if row["overlaps"] else "")


def format_p(p_value: float | None) -> str:
    """Return a p-value as the tables show it; nothing where there is none."""
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def describe_caveats(rows: Sequence[Row]) -> list[str]:
    """Return a line on each thing to know before trusting the rows.

    What each benchmark's number of problems can tell apart, which problems overlap with training, which trainings were
    stopped.
    """
    detectable = []
    for row in rows:
        benchmark = f"{row['benchmark']}, n = {row['n']}"
        detectable.append(f"{benchmark}: {_describe_detectable(row['n'])}")

    # Each line once, in order.
    return list(dict.fromkeys([*describe_faults(rows), *detectable]))


def describe_faults(rows: Sequence[Row]) -> list[str]:
    """Return a line on each fault of how the rows were made; of several runs it begins with the run's name."""
    quick = []
    overlaps = []
    alarms = []
    for row in rows:
        run = f"{row['run']}: " if "run" in row else ""
        if row["overlaps"]:
            overlaps.append(
                f"{run}{row['stage']} *: {row['overlaps']} problems of {row['benchmark']} overlap with what it learnt "
                "from or was shown (--allow-overlap)."
            )
        if row["profile"] == "quick":
            quick.append(f"{run}PROFILE=quick: a first look, by less training and fewer problems than the default's.")
        if row["alarm"]:
            alarms.append(
                f"{run}{row['stage']}: {row['alarm']}; the adapter that was best on dev until then is scored."
            )

    # Each line once, in order.
    return list(dict.fromkeys([*quick, *overlaps, *alarms]))


def _describe_detectable(n: int) -> str:
    difference = detectable_difference(n, CHANGED)
    # No difference can be larger than the share that changes.
    reach = "a difference" if difference < CHANGED - 1e-6 else "not even a difference"
    return (
        f"{reach} of {100 * difference:.0f} points is found four times in five, a smaller one less often, where "
        f"{CHANGED:.0%} of the verdicts change (McNemar, 5 %)."
    )


def describe_comparisons(rows: Sequence[Row]) -> str:
    """Return one line on what each stage is tested against."""
    compared = {row["stage"]: row["compared_to"] for row in rows if row["compared_to"]}
    pairs = [f"{stage} with {' and '.join(others)}" for stage, others in compared.items()]
    return f"Compared: {'; '.join(pairs)}." if pairs else "Compared: none."


def format_markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of texts as an aligned GitHub Markdown table; only ``TEXT_HEADINGS`` stand on the left."""
    # A bar would end the cell.
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    columns = []
    for column in zip(headings, *escaped, strict=True):
        heading, *cells = column
        # The rule under the heading needs three dashes and a colon.
        width = max(4, *map(len, column))
        if heading in TEXT_HEADINGS:
            rule = "-" * width
            columns.append([cell.ljust(width) for cell in (heading, rule, *cells)])
        else:
            rule = "-" * (width - 1) + ":"
            columns.append([cell.rjust(width) for cell in (heading, rule, *cells)])

    lines = [" | ".join(line) for line in zip(*columns, strict=True)]
    return "".join(f"| {line} |\n" for line in lines)


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with the notes under it."""
    table = format_markdown(HEADINGS, map(format_row, rows))
    return f"{table}\n{NOTE}\n{describe_comparisons(rows)}\n\n{list_caveats(rows)}"


def list_caveats(rows: Sequence[Row]) -> str:
    """Return the caveats as a list in Markdown."""
    return "".join(f"- {line}\n" for line in describe_caveats(rows))


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows to stdout; plain text where that is no terminal. Never narrower than its numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        side: Any = "left" if heading in TEXT_HEADINGS else "right"
        grid.add_column(heading, justify=side, no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, format_row(row)))  # Text: a name is never read as markup

    # Plain text goes to a file or a pipe, which has no width.
    console = Console()
    if not console.is_terminal:
        console.width = 160
    # Measured where there is room enough for any table.
    wide = console.options.update(width=1000)
    needed = console.measure(grid, options=wide).maximum
    console.width = max(console.width, needed)

    console.print(grid)
    for line in ["", *describe_caveats(rows)]:
        console.print(Text(line), soft_wrap=True)
