r"""Accuracy against tokens: all ways to decide how long to think, on the same problems.

    python -m eval.tradeoff --run runs/BASE

reads what ``make tradeoff`` left in runs/BASE/tradeoff (completions and ``ways.json``) and writes tradeoff.json,
tradeoff.md, tradeoff.png and tradeoff.svg there. No model is needed.

A way is asked once or at several budgets; with never and always thinking, the ends that all ways share, its points make
a curve. What lies between two points is had by tossing a coin between them, so curves are straight there.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from data.command import Parser, one_line_errors
from data.records import BadInput, Completion, Grade, Problem, read_completions, read_problems, write_json, write_text
from eval.extract import thinks
from eval.grade import grade_all
from eval.table import damaged, manifest

NEVER, ALWAYS = "never think", "always think"
FORCED, PROBE, CHOICE, LENGTH = "forced budget", "probe", "learnt choice", "learnt length"
PERFECT = "perfect choice"  # knows the answers: what no choice of mode can be better than
GRID = 101  # points at which a curve is read
SHARES = 21  # shares of problems that the probe sends to the answer at once
WITHIN = 0.01  # of accuracy, that may be lost at "equal" accuracy
RESAMPLES = 1000


@dataclass(frozen=True)
class Way:
    """One way to answer every problem: arrays (problems,) of right (0 or 1), all tokens, tokens of thought, and whether
    it thought. ``asked``: the tokens of thought it was limited to, by force or by instruction."""

    right: np.ndarray
    tokens: np.ndarray
    thought: np.ndarray
    thinks: np.ndarray
    asked: int | None = None

    def pick(self, rows: np.ndarray) -> "Way":
        """The way on some of the problems."""
        return Way(self.right[rows], self.tokens[rows], self.thought[rows], self.thinks[rows], self.asked)


def way(
    problems: Sequence[Problem], completions: Sequence[Completion], grades: Sequence[Grade], asked: int | None = None
) -> Way:
    """A way from its completions and grades; KeyError where a problem has none."""
    by_id, grade_of = {c.id: c for c in completions}, {g.id: g for g in grades}
    texts = [by_id[p.id] for p in problems]
    return Way(
        np.array([float(grade_of[p.id].correct) for p in problems]),
        np.array([float(c.thinking_tokens + c.answer_tokens) for c in texts]),
        np.array([float(c.thinking_tokens) for c in texts]),
        np.array([thinks(c.text) for c in texts]),
        asked,
    )


def mixed(never: Way, always: Way, direct: np.ndarray) -> Way:
    """The way that answers at once where ``direct`` (problems,) says so, else thinks."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(direct, a, b)

    return Way(
        of(never.right, always.right),
        of(never.tokens, always.tokens),
        of(never.thought, always.thought),
        of(never.thinks, always.thinks),
    )


def joined(ways: Sequence[Way]) -> Way:
    """One way over the problems of several."""

    def of(key: str) -> np.ndarray:
        return np.concatenate([getattr(w, key) for w in ways])

    return Way(of("right"), of("tokens"), of("thought"), of("thinks"), ways[0].asked)


def swept(never: Way, always: Way, scores: np.ndarray) -> list[Way]:
    """The ways that answer at once on a growing share of the problems, those first of which ``scores`` says that the
    answer at once is right."""
    rank = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
    return [mixed(never, always, rank < share * len(scores)) for share in np.linspace(0, 1, SHARES)]


def read_at(points: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """A curve's accuracy at so many tokens; ``points`` are (tokens, accuracy), (points, 2)."""
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    return np.interp(tokens, points[:, 0], points[:, 1])


def measures(never: np.ndarray, always: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Of a curve from ``never`` through ``points`` to ``always``, each (tokens, accuracy): its mean accuracy between
    the two ends (the area under it, over its width), and the least tokens at which it is within ``WITHIN`` of always
    thinking, as a share of the latter's."""
    curve = np.vstack([never, points, always])
    grid = np.linspace(never[0], always[0], GRID)
    accuracy = read_at(curve, grid)
    # A way that beats always thinking at more tokens than it is not worse than it.
    enough = grid[accuracy >= always[1] - WITHIN]
    return float(accuracy.mean()), float(enough.min() / always[0]) if len(enough) else 1.0


def point(way: Way) -> np.ndarray:
    """(tokens, accuracy) of a way."""
    return np.array([way.tokens.mean(), way.right.mean()])


def interval(values: Sequence[float]) -> list[float]:
    """The 95 % interval of resampled values."""
    return [float(np.quantile(values, q)) for q in (0.025, 0.975)]


def compared(curves: Mapping[str, Sequence[Way]], seed: int = 0) -> dict[str, Any]:
    """Each curve's area and tokens at equal accuracy, with bootstrap intervals over problems; of a learnt choice also
    how far it lies above the forced budgets' curve at its own tokens."""
    never, always = curves[NEVER][0], curves[ALWAYS][0]
    rng, n = np.random.default_rng(seed), len(never.right)
    draws = [np.arange(n), *(rng.integers(0, n, n) for _ in range(RESAMPLES))]
    found: dict[str, dict[str, list[float]]] = {}
    for rows in draws:
        ends = [point(w.pick(rows)) for w in (never, always)]
        at = {name: np.array([point(w.pick(rows)) for w in ways]) for name, ways in curves.items()}
        for name, points in at.items():
            if name in (NEVER, ALWAYS):
                continue
            area, tokens = measures(ends[0], ends[1], points)
            of_it = found.setdefault(name, {"area": [], "tokens_at_equal": [], "above_forced": []})
            of_it["area"].append(area)
            of_it["tokens_at_equal"].append(tokens)
            if FORCED in at and name in (CHOICE, PROBE, PERFECT):
                forced = np.vstack([ends[0], at[FORCED], ends[1]])
                of_it["above_forced"].append(float((points[:, 1] - read_at(forced, points[:, 0])).mean()))
    return {
        name: {key: {"value": v[0], "interval": interval(v[1:])} for key, v in of_it.items() if v}
        for name, of_it in found.items()
    }


def choices(problems: Sequence[Problem], chosen: Way, never: Way, always: Way) -> dict[str, Any]:
    """What a choice of mode costs and saves: the share that thinks by level; of all problems, those lost by not
    thinking (wrong, and thinking would have been right); of all tokens, those thought in vain (the answer is wrong, or
    would have been right without)."""
    levels = sorted({p.level for p in problems})
    of_level = {level: np.array([p.level == level for p in problems]) for level in levels}
    lost = ~chosen.thinks & (chosen.right == 0) & (always.right == 1)
    vain = chosen.thinks & ((chosen.right == 0) | (never.right == 1))
    return {
        "thinks": {str(level): float(chosen.thinks[rows].mean()) for level, rows in of_level.items()},
        "lost": float(lost.mean()),
        "in_vain": float(chosen.thought[vain].sum() / max(1.0, chosen.tokens.sum())),
    }


def misses(way: Way) -> dict[str, float]:
    """How far thoughts are from the tokens they were asked to stay within: the mean difference, the share that goes
    beyond, and the most by which one does."""
    over = way.thought - (way.asked or 0)
    return {"mean": float(over.mean()), "beyond": float((over > 0).mean()), "most": float(max(0.0, over.max()))}


def current(run_dir: Path) -> bool:
    """Whether the plot is there, and of the adapters that are there now."""
    folder = run_dir / "tradeoff"
    asked = manifest(folder).get("scoring", {}).get("inputs", {})
    return (folder / "tradeoff.svg").is_file() and all(
        manifest(run_dir / stage).get("training", {}).get("adapter") == asked.get(stage, {}).get("adapter")
        for stage in ("rl", "adaptive")
    )


def measure(run_dir: Path) -> dict[str, Any]:
    """Everything for tradeoff.json, from what is on disk: by benchmark, and over all of them."""
    folder = run_dir / "tradeoff"
    file = folder / "ways.json"
    if not file.is_file():
        raise BadInput(f"{file}: not there; run `make tradeoff` first")
    if lost := damaged(folder):
        raise BadInput(f"{lost[0]}: not what was answered; run `make tradeoff` to answer again")
    said = json.loads(file.read_text(encoding="utf-8"))
    problems: list[Problem] = []
    parts: dict[str, list[int]] = {}
    ways: dict[str, list[Way]] = {}
    for benchmark in said["benchmarks"]:
        of_it = read_problems(run_dir / "problems" / f"{benchmark}.jsonl")[: said["n"][benchmark]]
        if said.get("problems", {}).get(benchmark) not in (None, problems_key(of_it)):  # None: of an earlier version
            raise BadInput(f"{file}: {benchmark} has other problems now than were asked; run `make tradeoff` again")
        parts[benchmark] = list(range(len(problems), len(problems) + len(of_it)))
        for each in said["ways"]:
            completions = read_completions(folder / each["folder"] / f"{benchmark}.jsonl")
            made = way(of_it, completions, grade_all(of_it, completions), each["asked"])
            ways.setdefault(each["folder"], []).append(made)
        problems += of_it
    whole = {name: joined(several) for name, several in ways.items()}
    scores = np.array([score for benchmark in said["benchmarks"] for score in said["probe"]["scores"][benchmark]])
    result: dict[str, Any] = {"seed": said["seed"], "base": said["base"], "parts": {}}
    rows_of = parts | ({"both" if len(parts) == 2 else "all": list(range(len(problems)))} if len(parts) > 1 else {})
    for part, rows in rows_of.items():
        index = np.array(rows)
        picked = {name: w.pick(index) for name, w in whole.items()}
        result["parts"][part] = _part([problems[i] for i in rows], picked, said, scores[index])
    return result


def _part(
    problems: Sequence[Problem], ways: Mapping[str, Way], said: Mapping[str, Any], scores: np.ndarray
) -> dict[str, Any]:
    """One benchmark's numbers, or those of all."""
    curves: dict[str, list[Way]] = {}
    for each in said["ways"]:
        curves.setdefault(each["kind"], []).append(ways[each["folder"]])
    never, always = curves[NEVER][0], curves[ALWAYS][0]
    threshold = said["probe"]["threshold"]
    probed = mixed(never, always, scores > threshold)
    curves[PROBE] = [probed]
    curves[PERFECT] = [mixed(never, always, (never.right == 1) | (always.right == 0))]
    sweep = swept(never, always, scores)
    ends = [point(never), point(always)]
    points = []
    for kind, several in curves.items():
        for w in several:
            entry = {"way": kind, "asked": w.asked, "tokens": w.tokens.mean(), "accuracy": w.right.mean()}
            entry |= {"thought": w.thought.mean(), "thinks": float(w.thinks.mean())}
            entry["share_of_always"] = w.tokens.mean() / always.tokens.mean()
            points.append({k: float(v) if isinstance(v, np.floating) else v for k, v in entry.items()})
    return {
        "n": len(problems),
        "points": points,
        "compared": compared(curves),
        "sweep": [[float(v) for v in point(w)] for w in sweep],
        "sweep_area": measures(ends[0], ends[1], np.array([point(w) for w in sweep]))[0],
        "line_area": float((ends[0][1] + ends[1][1]) / 2),
        "choices": {
            name: choices(problems, curves[name][0], never, always)
            for name in (CHOICE, PROBE, PERFECT)
            if name in curves
        },
        "misses": {
            kind: {str(w.asked): misses(w) for w in curves.get(kind, [])} for kind in (FORCED, LENGTH) if kind in curves
        },
        "probe": {
            "auroc": auroc(scores.tolist(), (never.right == 1).tolist()),
            "direct_right": float(never.right.mean()),
        },
    }


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """The chance that a right one has a higher score than a wrong one, ties half; None where all are alike."""
    above = [s for s, r in zip(scores, right, strict=True) if r]
    below = [s for s, r in zip(scores, right, strict=True) if not r]
    if not above or not below:
        return None
    return fmean((a > b) + 0.5 * (a == b) for a in above for b in below)


def markdown(found: Mapping[str, Any]) -> str:
    """The numbers as Markdown tables."""
    lines = []
    for part, of_it in found["parts"].items():
        lines += [f"## {part}, n = {of_it['n']}", ""]
        lines += ["| way | asked | accuracy | tokens | of always | thinks |", "|---|--:|--:|--:|--:|--:|"]
        for p in of_it["points"]:
            asked = "" if p["asked"] is None else p["asked"]
            lines.append(
                f"| {p['way']} | {asked} | {100 * p['accuracy']:.1f} | {p['tokens']:.1f} | "
                f"{100 * p['share_of_always']:.0f} % | {100 * p['thinks']:.0f} % |"
            )
        lines += ["", "| curve | mean accuracy under it | tokens at equal accuracy | above the forced budgets |"]
        lines += ["|---|--:|--:|--:|"]
        for name, values in of_it["compared"].items():
            cells = []
            for key, unit in (("area", ""), ("tokens_at_equal", " %"), ("above_forced", "")):
                value = values.get(key)
                cells.append(
                    ""
                    if value is None
                    else f"{100 * value['value']:.1f}{unit} [{100 * value['interval'][0]:.1f}, "
                    f"{100 * value['interval'][1]:.1f}]"
                )
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append(f"| probe, all thresholds | {100 * of_it['sweep_area']:.1f} | | |")
        lines.append(f"| a coin between never and always | {100 * of_it['line_area']:.1f} | | |")
        lines += [
            "",
            "| choice | thinks, by level | lost by not thinking | tokens thought in vain |",
            "|---|---|--:|--:|",
        ]
        for name, c in of_it["choices"].items():
            rates = ", ".join(f"{level}: {100 * rate:.0f} %" for level, rate in c["thinks"].items())
            lines.append(f"| {name} | {rates} | {100 * c['lost']:.1f} % | {100 * c['in_vain']:.0f} % |")
        lines += [
            "",
            "| budget | asked | thought less asked, mean | beyond it | most beyond |",
            "|---|--:|--:|--:|--:|",
        ]
        for kind, several in of_it["misses"].items():
            for asked, m in several.items():
                lines.append(f"| {kind} | {asked} | {m['mean']:.1f} | {100 * m['beyond']:.0f} % | {m['most']:.0f} |")
        told = of_it["probe"]
        order = "" if told["auroc"] is None else f"; the probe orders them with an AUROC of {told['auroc']:.2f}"
        lines += ["", f"Answered at once {100 * told['direct_right']:.1f} % are right{order}.", ""]
    return "\n".join(lines) + NOTE


NOTE = """
Accuracy in percent, tokens a problem (thought and answer both). Never and always think are the rl stage, made to begin
in one way or the other; forced budgets close its thought at so many tokens. The probe is a logistic regression on the
base's hidden state at the end of the question, fitted on train problems, its layer and its threshold chosen on dev. The
learnt choice is the adaptive stage; the perfect choice knows the answers and thinks only where that makes a wrong one
right: no choice of mode can do better; the learnt length is asked to "think for at most N tokens". A curve runs from
never thinking through its points to always thinking; tokens at equal accuracy: the least at which it is within one
point of always thinking, in percent of the latter's. Brackets: 95 %, bootstrap over problems.
"""


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """The plot, a panel for each benchmark and one for all, as PNG and SVG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    styles = {FORCED: "s-", LENGTH: "^-", CHOICE: "D", PROBE: "o", PERFECT: "P"}
    parts = found["parts"]
    with pyplot.rc_context({"font.size": 9, "svg.hashsalt": "ladder", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            1, len(parts), figsize=(4.6 * len(parts), 3.8), layout="constrained", squeeze=False
        )
        for panel, (part, of_it) in zip(axes[0], parts.items(), strict=True):
            at = {
                kind: [(p["tokens"], 100 * p["accuracy"]) for p in of_it["points"] if p["way"] == kind]
                for kind in (NEVER, ALWAYS, *styles)
            }
            panel.plot(*zip(*at[NEVER], *at[ALWAYS], strict=True), ":", color="0.5", label="a coin between the two")
            panel.plot(*zip(*[(t, 100 * a) for t, a in of_it["sweep"]], strict=True), "-", color="C3", alpha=0.4)
            for color, (kind, style) in enumerate(styles.items()):
                if at[kind]:
                    panel.plot(*zip(*sorted(at[kind]), strict=True), style, color=f"C{color}", label=kind, markersize=5)
            for kind, marker in ((NEVER, "x"), (ALWAYS, "*")):
                panel.plot(*at[kind][0], marker, color="k", label=kind, markersize=9, linestyle="")
            panel.set(title=f"{part} (n = {of_it['n']})", xlabel="tokens a problem", ylim=(0, None), xlim=(0, None))
            panel.spines[["top", "right"]].set_visible(False)
        axes[0][0].set_ylabel("accuracy, %")
        axes[0][-1].legend(frameon=False, fontsize=8, loc="lower right")
        for kind in ("png", "svg"):
            figure.savefig(
                folder / f"tradeoff.{kind}",
                dpi=160,
                metadata={"Date": None} if kind == "svg" else None,
                transparent=kind == "svg",
            )
        pyplot.close(figure)


def write(run_dir: Path) -> str:
    """Write tradeoff.json, .md, .png and .svg; returns the Markdown."""
    found = measure(run_dir)
    folder = run_dir / "tradeoff"
    write_json(folder / "tradeoff.json", found)
    text = markdown(found)
    write_text(folder / "tradeoff.md", text)
    draw(found, folder)
    return text


def problems_key(problems: Sequence[Problem]) -> str:
    """One sha256 over what problems ask and what is right."""
    told = [[p.id, p.question, p.answer, p.kind, p.choices] for p in problems]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 on bad input."""
    parser = Parser(prog="python -m eval.tradeoff", description="Accuracy against tokens, from disk.")
    parser.add_argument("--run", required=True, type=Path, metavar="FOLDER", help="runs/BASE")
    options = parser.parse_args(arguments)
    print(write(options.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
