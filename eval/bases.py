"""One table over base models: the best row of every stage of each, on the same problems."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.records import BadInput, read_grades, write_json, write_text
from eval import table
from eval.compare import detectable, holm, mcnemar

NOTE = """\
Of each stage the most accurate variant, in percent with its 95 % interval (Wilson), and all tokens of an answer. p:
exact two-sided McNemar test against the same stage of the first base, on the same problems; p Holm: corrected for the
number of tests in the table.
"""
HEADINGS = ("benchmark", "stage", "base", "variant", "n", "accuracy", "tokens", "p", "p Holm")


def rows(run_dirs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row for each benchmark, stage and base, from what ``runs/BASE`` of each base holds; BadInput where the bases
    were scored on different problems or by different rules."""
    found: list[dict[str, Any]] = []
    hits: dict[tuple[str, str, str], dict[str, bool]] = {}
    rules: dict[str, dict[str, Any]] = {}
    for base, folder in run_dirs.items():
        for benchmark in dict.fromkeys(row["benchmark"] for row in table.rows(folder)):
            for stage in table.STAGES:
                best = table.best_variant(folder, stage, benchmark)
                if best is None:
                    continue
                # The stages of a base have their rules in common: table.rows has seen to it.
                rules[base] = table.rules_of(folder / stage, json.loads((folder / stage / "scores.json").read_text()))
                graded = read_grades(folder / stage / best["grades"])
                hits[benchmark, stage, base] = {grade.id: grade.correct for grade in graded}
                row = {"benchmark": benchmark, "stage": stage, "base": base, "variant": best["variant"]}
                row |= {key: best[key] for key in table.SCORES} | {"benchmark_sha256": best["benchmark_sha256"]}
                found.append(row)
    for benchmark, name in {(row["benchmark"], "benchmark_sha256") for row in found}:
        if len({(row[name], row["n"]) for row in found if row["benchmark"] == benchmark}) > 1:
            raise BadInput(f"{benchmark}: the bases were scored on different problems; rerun them with the same LIMIT")
    first = next(iter(run_dirs))
    for base, rule in itertools.product(rules, (table.EXTRACTION, table.CAP)):
        if (one := rules[first][rule]) != (other := rules[base][rule]):
            raise BadInput(f"{first} and {base} were scored with another {rule} ({one} and {other}); rerun one of them")
    for row in found:
        key = (row["benchmark"], row["stage"])
        against, own = hits.get((*key, first)), hits[(*key, row["base"])]
        tested = against is not None and row["base"] != first
        row["p"] = mcnemar([against[i] for i in own], [*own.values()]) if tested and against else None
    tests = [row for row in found if row["p"] is not None]
    for row, p in zip(tests, holm([row["p"] for row in tests]), strict=True):
        row["p_holm"] = p
    order = {stage: i for i, stage in enumerate(table.STAGES)}
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in found))
    return sorted(found, key=lambda row: (benchmarks.index(row["benchmark"]), order[row["stage"]]))


def cells(row: dict[str, Any]) -> list[str]:
    """A row as texts, a heading each."""
    span = f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
    tests = ["" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (row["p"], row.get("p_holm"))]
    known = [row["benchmark"], row["stage"], row["base"], row["variant"], str(row["n"]), span]
    return [*known, f"{row['tokens_mean']:.1f}", *tests]


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with what its numbers of problems can tell apart."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|---|---|---|--:|--:|--:|--:|--:|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in found]
    told = [
        f"{benchmark}, n = {n}: a difference of {100 * detectable(n, table.CHANGED):.0f} points between two bases is "
        f"found four times in five, where {table.CHANGED:.0%} of the verdicts change."
        for benchmark, n in dict.fromkeys((row["benchmark"], row["n"]) for row in found)
    ]
    return "\n".join([*lines, "", NOTE, *told, ""])


def write(run_dirs: Mapping[str, Path], folder: Path) -> str:
    """Write bases.json and bases.md into ``folder``; returns the Markdown."""
    found = rows(run_dirs)
    write_json(folder / "bases.json", found)
    text = markdown(found)
    write_text(folder / "bases.md", text)
    return text
