"""Runs that differ in their seed alone, in one table: mean and spread of each row, and tests over the seeds' means."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from data.files import UserError
from eval import table
from eval.compare import Correct, check_comparable, collect_correct
from eval.run_view import RunView, StageView
from eval.stats import bounded_interval, sign_flip_p

NUMBER_HEADINGS = (
    "n",
    "seeds",
    "accuracy",
    "sd",
    "tokens",
    "tokens sd",
    "gain",
    "p",
    "p Holm",
)
HEADINGS = ("benchmark", "stage", "variant", *NUMBER_HEADINGS)

# The inputs of a stage that must be the same under all seeds.
SETTINGS = ("settings", "problems", "files", "prompt")

NOTE = """\
Accuracy is in percent, tokens are means over all problems; both are means over the seeds, each with its sample standard
deviation beside it (sd). Gain: points above the best variant of the stages named below, over the seeds that both have,
with the 95 % interval of the mean over the problems (Agresti and Min 2005). p: exact two-sided sign-flip (permutation)
test over problems on each problem's mean over the seeds. p Holm: the same, corrected for the number of tests in the
table (Holm). The test says whether these seeds' adapters differ on problems like these; how far another seed may fall
is in sd.
"""


@dataclass(frozen=True)
class _Entry:
    """A row of the runs' tables: the row and the verdicts of each run that has it, by the run's place."""

    rows: dict[int, table.Row]
    correct: dict[int, Correct]

    @property
    def accuracy(self) -> float:
        return fmean(row["accuracy"] for row in self.rows.values())


def summarize_seeds(runs: Sequence[RunView]) -> list[table.Row]:
    """Return a row for each row that the runs' tables have, those of guessing aside.

    A row has ``seeds`` (how many have it), mean and sample standard deviation of accuracy and tokens (None with one
    seed), ``overlaps``, ``alarm`` and ``profile`` of any seed that has them, and, where a stage that it is compared to
    has the benchmark: ``gain``, its interval, ``p_vs_previous``, ``p_holm``.

    Raises:
        UserError: where there is one run, or the runs differ in more than the seed.
    """
    if len(runs) < 2:
        raise UserError("seeds: there is one seed; run another one beside it, for example: make SEED=2")
    for run in runs[1:]:
        check_comparable(runs[0], run, table.RULES)
        _check_settings(runs[0], run)

    entries = _collect_entries(runs)
    rows = [_make_row(entry, entries) for entry in entries]

    table.correct_p_values(rows, "p_vs_previous")
    return rows


def _check_settings(first: RunView, other: RunView) -> None:
    expected = {stage.name: stage for stage in first.stages}
    for stage in other.stages:
        # A stage that the first run has not is compared with none.
        same = expected.get(stage.name, stage)
        if _get_settings(stage) != _get_settings(same) or not _agree(_get_prompts(stage), _get_prompts(same)):
            raise UserError(
                f"seeds: {stage.name} has other settings or problems in {other.name} than in {first.name}; run both "
                "with the same PROFILE, SET and files"
            )


def _get_settings(stage: StageView) -> Any:
    """What the recipe and the files that it names say, by part and input."""
    settings = {}
    for part in stage.manifest:
        inputs = stage.manifest[part]["inputs"]
        settings[part] = {name: inputs.get(name) for name in SETTINGS}
    return settings


def _get_prompts(stage: StageView) -> dict[str, str]:
    """The sha256 of what each row was asked with, its examples too."""
    prompts: dict[str, str] = stage.manifest["scoring"]["inputs"].get("prompts", {})
    return prompts


def _agree(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    """Whether what both have is the same; a seed may have been scored on one benchmark more."""
    return all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def _collect_entries(runs: Sequence[RunView]) -> list[_Entry]:
    """Return the rows of all runs, those of one variant and benchmark together."""
    entries: dict[tuple[str, str, str], _Entry] = {}
    for place, run in enumerate(runs):
        for row in run.rows:
            # Guessing is the same under each seed.
            if row["stage"] in table.BASELINES:
                continue

            key = row["benchmark"], row["stage"], row["variant"]
            entry = entries.setdefault(key, _Entry({}, {}))
            for other in entry.rows.values():
                # The pooled rows of two runs may be over other benchmarks.
                if row["benchmark_sha256"] != other["benchmark_sha256"]:
                    raise UserError(
                        f"seeds: {row['stage']} has other benchmarks in {run.name} than in {runs[0].name}; run both "
                        "with the same BENCHMARK"
                    )
            correct = collect_correct(run, row)
            for others in entry.correct.values():
                if correct.keys() != others.keys():
                    raise UserError(
                        f"seeds: {row['stage']} has other problems in {run.name} than under another seed; run both "
                        "with the same LIMIT"
                    )
            entry.rows[place] = row
            entry.correct[place] = correct
    return list(entries.values())


def _make_row(entry: _Entry, entries: Sequence[_Entry]) -> table.Row:
    rows = list(entry.rows.values())
    # All seeds have these in common.
    shared = ("benchmark", "stage", "variant", "n", "compared_to")
    row = {key: rows[0][key] for key in shared}
    row["seeds"] = len(rows)
    # What is to be known of one of them is to be known of their mean.
    row["overlaps"] = max(each["overlaps"] for each in rows)
    row["alarm"] = "; ".join(dict.fromkeys(each["alarm"] for each in rows if each["alarm"]))
    row["profile"] = "quick" if any(each["profile"] == "quick" for each in rows) else rows[0]["profile"]

    for name, key in (("accuracy", "accuracy"), ("tokens", "tokens_mean")):
        values = [each[key] for each in rows]
        row[f"{name}_mean"] = fmean(values)
        row[f"{name}_sd"] = stdev(values) if len(values) > 1 else None

    row |= dict.fromkeys(("gain", "gain_low", "gain_high", "p_vs_previous", "p_holm"))
    # With the variant that is best over all seeds, not with another for each.
    earlier = [other for other in entries if _is_compared(row, other)]
    if earlier:
        best = max(earlier, key=lambda other: other.accuracy)
        row |= _compare(entry, best)
    return row


def _is_compared(row: table.Row, other: _Entry) -> bool:
    other_row = next(iter(other.rows.values()))
    return other_row["benchmark"] == row["benchmark"] and other_row["stage"] in row["compared_to"]


def _compare(entry: _Entry, best: _Entry) -> dict[str, float]:
    """Return the gain over another entry and its test; nothing where no seed has both."""
    seeds = entry.rows.keys() & best.rows.keys()
    if not seeds:
        return {}

    differences = []
    for problem in next(iter(entry.correct.values())):
        ours = sum(entry.correct[seed][problem] for seed in seeds)
        theirs = sum(best.correct[seed][problem] for seed in seeds)
        differences.append(ours - theirs)

    gains = [difference / len(seeds) for difference in differences]
    low, high = bounded_interval(gains)
    return {
        "gain": fmean(gains),
        "gain_low": low,
        "gain_high": high,
        # Whole numbers, so that the test is exact.
        "p_vs_previous": sign_flip_p(differences),
    }


def format_row(row: table.Row) -> list[str]:
    """Return a row as texts, one for each of ``HEADINGS``."""
    gain = ""
    if row["gain"] is not None:
        gain = f"{100 * row['gain']:+.1f} [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]"

    has_spread = row["seeds"] > 1
    return [
        row["benchmark"],
        table.mark_stage(row),
        row["variant"],
        str(row["n"]),
        str(row["seeds"]),
        f"{100 * row['accuracy_mean']:.1f}",
        f"{100 * row['accuracy_sd']:.1f}" if has_spread else "",
        f"{row['tokens_mean']:.1f}",
        f"{row['tokens_sd']:.1f}" if has_spread else "",
        gain,
        table.format_p(row["p_vs_previous"]),
        table.format_p(row["p_holm"]),
    ]


def to_markdown(rows: Sequence[table.Row]) -> str:
    """Return the rows as a GitHub Markdown table, with the notes under it."""
    text = table.format_markdown(HEADINGS, [format_row(row) for row in rows])
    caveats = "".join(f"- {line}\n" for line in table.describe_faults(rows))
    notes = f"{NOTE}\n{table.describe_comparisons(rows)}\n"
    return f"{text}\n{notes}\n{caveats}" if caveats else f"{text}\n{notes}"
