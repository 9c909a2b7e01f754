"""The one table: what each stage scores on the same problems, and what it costs in tokens."""

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

from data.records import BadInput, read_grades, sha256_of, write_json, write_text
from eval.compare import detectable, holm, mcnemar

STAGES = ("plain", "cot", "sft", "rl", "adaptive")
CONTROLS = ("sft_answers", "sft_shuffled", "rl_random", "rl_format")
BASELINES = ("chance", "majority")
ADAPTER = "adapter/adapter_model.safetensors"
# What each stage is tested against: the best variant of these, on the same problems; a control against the real stage.
BEFORE = {"plain": (), "cot": ("plain",), "sft": ("plain", "cot"), "rl": ("sft",), "adaptive": ("rl",)}
BEFORE |= {control: (control.split("_")[0],) for control in CONTROLS}
SCORES = ["n", "accuracy", "ci_low", "ci_high", "tokens_mean", "thinking_tokens_mean"]
SCORES += ["thinking_rate", "format_rate", "truncated_rate", "seconds"]

NOTE = """\
Accuracy is in percent of the n problems, with its 95 % interval (Wilson). Tokens are means over all problems: thought
and answer together, then the thought alone. "thinks", "boxed" and "cut" are the percent of texts with a thought, with
a boxed answer, and stopped by the token limit. One completion a problem, decoded greedily; the limit is in each
stage's manifest.json.

p: exact two-sided McNemar test on the same problems against the stage before: cot against the best variant of plain,
sft against the best-prompted base (all variants of plain and cot), a later round of sft against the one before, rl
against the best of sft, adaptive against the best of rl. "Best" is the highest accuracy on these very problems, which
favours the stage before. p Holm: the same, corrected for the number of tests in the table (Holm). A control is tested
against the stage it imitates.

chance picks one of a problem's choices; majority gives each family's most common answer, by its text or its letter.
"""
CHANGED = 0.2  # the share of problems with another verdict, for which the smallest detectable difference is given
EXTRACTION, CAP = "version of the extraction", "eval.max_tokens"  # rules that the rows of a table share


def rows(run_dir: Path, controls: bool = False) -> list[dict[str, Any]]:
    """The rows of runs/BASE, benchmark by benchmark in the order of the stages, from each stage's ``scores.json``; the
    controls' after them where asked for. A stage that stands on what is not there now is out.

    A benchmark's first rows are what guessing gets (:func:`eval.score.baselines`), exact, so without an interval.
    ``p_vs_previous`` is None for these, for plain and where no earlier stage has the benchmark. Raises BadInput where a
    file is no scores or grades file or not what its manifest says, where stages were scored on different problems or by
    different rules of extraction, or where nothing was scored.
    """
    table: list[dict[str, Any]] = []
    hits: list[dict[str, bool]] = []  # for each row: problem id -> correct
    guesses: list[dict[str, Any]] = []
    rules: dict[str, dict[str, Any]] = {}  # stage -> how it was asked and graded
    before_of = dict(BEFORE)
    for earlier, later in itertools.pairwise([*_rounds(run_dir), "sft"]):
        before_of |= {earlier: before_of.get(earlier, BEFORE["sft"]), later: (earlier,)}
    for stage in stages_of(run_dir, controls):
        path = run_dir / stage / "scores.json"
        if not path.is_file():
            continue
        _check(path.parent)
        if _outdated(run_dir, stage):
            continue
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
            rules[stage] = rules_of(path.parent, scores)
            for variant in scores["variants"]:
                for entry in variant["benchmarks"]:
                    if not any(guess["benchmark"] == entry["benchmark"] for guess in guesses):
                        guesses += [_guess(name, entry) for name in BASELINES]
                    row = {"stage": stage, "variant": variant["variant"], "benchmark": entry["benchmark"]}
                    row["benchmark_sha256"] = entry["benchmark_sha256"]
                    row |= {key: entry[key] for key in SCORES}
                    table.append(row | {"overlaps": entry.get("overlaps", 0), "alarm": scores.get("alarm")})
                    hits.append({grade.id: grade.correct for grade in read_grades(path.parent / entry["grades"])})
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: no scores file ({error!r}); rerun the stage {stage}") from None
    if not table:
        raise BadInput(f"{run_dir}: no stage has a scores.json; run one first, for example: make plain")
    first_stage, *others = rules
    for stage, rule in itertools.product(others, rules[first_stage]):
        if (one := rules[first_stage][rule]) != (other := rules[stage][rule]):
            raise BadInput(
                f"{run_dir}: {first_stage} and {stage} were scored with another {rule} ({one!s:.12} and {other!s:.12});"
                " bring both up to date with the same settings, or give one a folder of its own: RUNS="
            )
    for row, right in zip(table, hits, strict=True):
        same = [i for i, other in enumerate(table) if other["benchmark"] == row["benchmark"]]
        first = table[same[0]]
        if row["benchmark_sha256"] != first["benchmark_sha256"] or right.keys() != hits[same[0]].keys():
            raise BadInput(
                f"{run_dir}: {first['stage']} ({first['variant']}) and {row['stage']} ({row['variant']}) were scored "
                f"on different problems of {row['benchmark']}; rerun both with the same benchmark and limit"
            )
        before = [i for i in same if table[i]["stage"] in before_of[row["stage"]]]
        best = max(before, key=lambda i: table[i]["accuracy"], default=None)
        row["p_vs_previous"] = (
            None if best is None else mcnemar(list(right.values()), [hits[best][identity] for identity in right])
        )
    tested = [row for row in table if row["p_vs_previous"] is not None]
    corrected = iter(holm([row["p_vs_previous"] for row in tested]))
    for row in table:
        row["p_holm"] = None if row["p_vs_previous"] is None else next(corrected)
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in table))
    # The sort is stable: the stages keep their order.
    return sorted(guesses + table, key=lambda row: benchmarks.index(row["benchmark"]))


def manifest(stage_dir: Path) -> dict[str, Any]:
    """The stage's manifest, empty where there is none; BadInput where it is no manifest."""
    path = stage_dir / "manifest.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(part.get(key, {}), dict) for part in value.values() for key in ("inputs", "files"))
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise BadInput(f"{path}: not a manifest; delete {stage_dir} and run the stage again")
    return value


def damaged(stage_dir: Path, part: str = "scoring") -> list[Path]:
    """The files of a stage that are not those which its manifest names for a part, by their sha256."""
    made = manifest(stage_dir).get(part, {})
    adapter = {ADAPTER: made["adapter"]} if "adapter" in made else {}  # all that older manifests name
    files = adapter | made.get("files", {})
    known = {stage_dir / name: sha for name, sha in files.items()}
    return [path for path, sha in known.items() if not (path.is_file() and sha256_of(path) == sha)]


def rules_of(stage_dir: Path, scores: dict[str, Any]) -> dict[str, Any]:
    """What all rows of a table have in common; over several bases the extraction and the cap at least."""
    asked = manifest(stage_dir).get("scoring", {}).get("inputs", {})
    cap = asked.get("settings", {}).get("max_tokens")
    about = {"base": asked.get("base"), "base.load": asked.get("load"), CAP: cap}
    return {EXTRACTION: scores["extraction"]} | about


def _check(stage_dir: Path) -> None:
    if lost := damaged(stage_dir):
        stage = stage_dir.name
        raise BadInput(f"{lost[0]}: not what {stage} was scored with; run `make {stage}` to answer again")


def check_beside(run_dir: Path) -> None:
    """BadInput where what a page shows of runs/BASE beside the table (problems, logs of the trainings) is not what was
    written."""
    for stage in stages_of(run_dir, controls=True):
        for path in damaged(run_dir / stage, "training"):
            if path.name in ("curve.json", "train.jsonl") and path.is_file():
                raise BadInput(f"{path}: not what was written; delete it to go without")
        scores = run_dir / stage / "scores.json"
        variants = json.loads(scores.read_text(encoding="utf-8"))["variants"] if scores.is_file() else []
        for entry in [entry for variant in variants for entry in variant["benchmarks"]]:
            path = run_dir / "problems" / f"{entry['benchmark']}.jsonl"
            if "problems_sha256" in entry and not (path.is_file() and sha256_of(path) == entry["problems_sha256"]):
                raise BadInput(f"{path}: not what {stage} was asked; run `make {stage}` to write it again")


def _outdated(run_dir: Path, stage: str) -> bool:
    """Whether a stage stands on what is not there now: somewhere before it a stage has another adapter than was trained
    on, or has no scores (it was refused, or is still to be asked)."""
    made, passed = manifest(run_dir / stage).get("training", {}), [stage]
    while isinstance(before := made.get("stands_on"), str) and before not in passed:
        passed.append(before)
        stood_on, made = made.get("inputs", {}).get("stands_on"), manifest(run_dir / before).get("training", {})
        if made.get("adapter") != stood_on or not (run_dir / before / "scores.json").is_file():
            return True
    return False


def _guess(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The row of a baseline that reads no problem, from any stage's scores of the benchmark."""
    row = {"stage": name, "variant": "", "benchmark": entry["benchmark"]}
    row["benchmark_sha256"] = entry["benchmark_sha256"]
    row |= dict.fromkeys(SCORES, 0.0) | {"n": entry["n"]} | dict.fromkeys(SCORES[1:4], entry[name])
    return row | {"overlaps": 0, "alarm": None, "p_vs_previous": None, "p_holm": None}


def stages_of(run_dir: Path, controls: bool) -> list[str]:
    """The stages that a table of runs/BASE can have, in its order."""
    return [*STAGES[:2], *_rounds(run_dir), *STAGES[2:], *(CONTROLS if controls else ())]


def _rounds(run_dir: Path) -> list[str]:
    """The rounds of sft that the sft on disk stands on, the first one first."""
    chain: list[str] = []
    stage = "sft"
    while (path := run_dir / stage / "scores.json").is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8")).get("stands_on")
        except (ValueError, AttributeError):
            break  # whoever reads its scores says what is wrong with the file
        if not isinstance(before, str) or before in chain:
            break
        chain.insert(0, before)
        stage = before
    return chain


def best_variant(run_dir: Path, stage: str, benchmark: str) -> dict[str, Any] | None:
    """The scores of a stage's most accurate variant on a benchmark, with its name, prompt and shots; None where the
    stage has no row of it. BadInput where a file is not what its manifest says."""
    path = run_dir / stage / "scores.json"
    if not path.is_file() or _outdated(run_dir, stage):
        return None
    _check(run_dir / stage)
    scored = [
        entry | {key: variant[key] for key in ("variant", "prompt", "shots")}
        for variant in json.loads(path.read_text(encoding="utf-8"))["variants"]
        for entry in variant["benchmarks"]
        if entry["benchmark"] == benchmark
    ]
    return max(scored, key=lambda entry: entry["accuracy"], default=None)


HEADINGS = (
    "benchmark",
    "stage",
    "variant",
    "n",
    "accuracy",
    "tokens",
    "thought",
    "thinks",
    "boxed",
    "cut",
    "seconds",
    "p",
    "p Holm",
)
LEFT = 3  # columns of text; the others are numbers


def cells(row: dict[str, Any]) -> list[str]:
    if row["stage"] in BASELINES:
        known = [row["benchmark"], row["stage"], "", str(row["n"]), f"{100 * row['accuracy']:.1f}"]
        return known + [""] * (len(HEADINGS) - len(known))
    return [
        row["benchmark"],
        row["stage"] + " *" * (row["overlaps"] > 0),
        row["variant"],
        str(row["n"]),
        f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]",
        f"{row['tokens_mean']:.1f}",
        f"{row['thinking_tokens_mean']:.1f}",
        *(f"{100 * row[key]:.1f}" for key in ("thinking_rate", "format_rate", "truncated_rate")),
        f"{row['seconds']:.0f}",
        *("" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (row["p_vs_previous"], row["p_holm"])),
    ]


def _found(n: int) -> str:
    least = detectable(n, CHANGED)
    points = f"a difference of {100 * least:.0f} points is found"
    return points if least < CHANGED - 1e-6 else f"not even {points}"


def caveats(table: list[dict[str, Any]]) -> str:
    """What each benchmark's number of problems can tell apart, and which were known from training; a line each."""
    sizes = dict.fromkeys((row["benchmark"], row["n"]) for row in table)
    return (
        "".join(
            f"{benchmark}, n = {n}: {_found(n)} four times in five, a smaller one less often, where {CHANGED:.0%} of "
            "the verdicts change (McNemar, 5 %).\n"
            for benchmark, n in sizes
        )
        + "".join(
            f"* {benchmark}: {overlaps} of the problems are given away by the train split (--allow-overlap).\n"
            for benchmark, overlaps in dict.fromkeys((r["benchmark"], r["overlaps"]) for r in table if r["overlaps"])
        )
        + "".join(
            f"{stage}: {alarm}; the adapter that was best on dev until then is scored.\n"
            for stage, alarm in dict.fromkeys((r["stage"], r["alarm"]) for r in table if r["alarm"])
        )
    )


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as an aligned GitHub Markdown table, with the notes under it."""
    lines = [list(HEADINGS)] + [[cell.replace("|", "\\|") for cell in cells(row)] for row in table]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i < LEFT else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines.insert(1, rule)
    padded = (
        [
            cell.ljust(width) if i < LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in padded) + "\n" + NOTE + "\n" + caveats(table)


def comma_separated(table: list[dict[str, Any]]) -> str:
    """Every number of the rows, not rounded, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in table for key in row)))
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def latex(table: list[dict[str, Any]]) -> str:
    """The rows as a LaTeX tabular, for the package booktabs."""
    escapes = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | {"<": "$<$", "\\": "\\textbackslash{}"})
    lines = [[cell.translate(escapes) for cell in line] for line in (HEADINGS, *map(cells, table))]
    body = [" & ".join(line) + " \\\\" for line in lines]
    columns = "l" * LEFT + "r" * (len(HEADINGS) - LEFT)
    inside = ["\\toprule", body[0], "\\midrule", *body[1:], "\\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", *inside, "\\end{tabular}", ""])


FORMATS = {"markdown": markdown, "csv": comma_separated, "latex": latex}


def write(run_dir: Path, controls: bool = False) -> list[dict[str, Any]]:
    """Write ``table.json`` and ``table.md`` into runs/BASE and return the rows; raises BadInput as :func:`rows`."""
    table = rows(run_dir, controls)
    write_json(run_dir / "table.json", table)
    write_text(run_dir / "table.md", markdown(table))
    return table


def show(table: list[dict[str, Any]]) -> None:
    """Print the rows to stdout; plain text where that is no terminal. Never narrower than its numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 160
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, heading in enumerate(HEADINGS):
        grid.add_column(heading, justify="left" if i < LEFT else "right", no_wrap=True)
    for row in table:
        grid.add_row(*map(Text, cells(row)))  # Text: a name is never read as markup
    needed = console.measure(grid, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(grid)
    console.print(Text("\n" + caveats(table)), end="", soft_wrap=True)
