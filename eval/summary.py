"""The last lines of a run: where everything is, what came of each stage, what to try next; all from disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import table, tradeoff

TRAINED = ("sft", "rl", "adaptive")


def summary(run_dir: Path, rows: Sequence[dict[str, Any]], options: str = "") -> str:
    """At most 8 lines on runs/BASE, of which ``rows`` are the table; ``options`` are the variables that `make` was
    called with, which what is proposed needs too."""
    lines = [f"Results are in {run_dir}: table.md; of each stage scores.json, completions, grades, log.txt."]
    for stage in TRAINED:
        lines += gains(stage, rows) + kept(run_dir, stage)
    done = {row["stage"] for row in rows}
    missing = [stage for stage in table.STAGES if stage not in done]
    following = [f"make ({', '.join(missing)} not run yet)"] if missing else []
    following.append("make report (every answer on one page)")
    if not missing and not tradeoff.current(run_dir):
        following.append("make tradeoff (what thinking costs)")
    if not missing and not done & set(table.CONTROLS):
        following.append("make controls (whether the gains are those of form)")
    following.append("make ask (a chat with the stages)")
    return "\n".join([*lines, f"Next{f', with {options}' if options else ''}: {', '.join(following)}."]) + "\n"


def gains(stage: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line on what a stage's accuracy is against the stage before, on each benchmark; none where one of them is not
    in the table."""
    rounds = [row["stage"] for row in rows if row["stage"].startswith("sft_round")]
    # What its p in the table is held to.
    said, before = [], (rounds[-1],) if stage == "sft" and rounds else table.BEFORE[stage]
    for row in rows:
        earlier = [r["accuracy"] for r in rows if r["stage"] in before and r["benchmark"] == row["benchmark"]]
        if row["stage"] == stage and earlier:
            p = row["p_holm"]
            sure = "" if p is None else ", more than chance" if p < 0.05 else ", within chance"
            said.append(f"{100 * (row['accuracy'] - max(earlier)):+.1f} points on {row['benchmark']}{sure}")
    than = "the best prompt" if len(before) > 1 else before[0]
    return [f"{stage} against {than}: {'; '.join(said)}."] if said else []


def kept(run_dir: Path, stage: str) -> list[str]:
    """A line on a training that changed nothing or was stopped, and on where it says why; or on what says so being
    damaged; else none."""
    folder = run_dir / stage
    if stage == "sft" or not (folder / "curve.json").is_file():
        return []
    for path in table.damaged(folder, "training"):
        if path.name in ("curve.json", "alarm.txt", "preflight.json") and path.is_file():
            return [f"{stage}: {path} is not what was written; delete it to go without."]
    made = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("training", {})
    unchanged = made.get("adapter") == made.get("inputs", {}).get("stands_on")
    alarm = folder / "alarm.txt"
    if not unchanged and not alarm.is_file():
        return []
    curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    said = ", ".join(f"{100 * p['accuracy']:.1f} % and {p['tokens']:.1f} tokens" for p in (curve[0], curve[-1]))
    why = [f"it was {alarm.read_text(encoding='utf-8').strip()} (alarm.txt)"] if alarm.is_file() else []
    preflight = folder / "preflight.json"
    if preflight.is_file():
        why.append(f"{json.loads(preflight.read_text(encoding='utf-8'))['verdict']} (preflight.json)")
    why.append(f"on dev, first and last look: {said} (curve.json)")
    what = "kept the adapter that it began with" if unchanged else "kept an earlier adapter than its last"
    return [f"{stage} {what}; {'; '.join(why)}."]
