"""What RL leaves behind while it trains: the log of its steps, the dev curve, the best adapter; and its alarms."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from data.records import write_json, write_text
from pipeline import processes

FIRST = 2  # steps with which the last ones are compared


class Watch(TrainerCallback):
    """Keeps what a training leaves behind in ``work``: the log of its steps (train.jsonl), the dev curve (curve.json,
    every ``every`` steps), the best adapter on dev, and what stopped it early (alarm.txt).

    ``score`` gives a point of the curve, which ``log`` shows to trackers; ``better`` is told a new point, the kept one
    and the first; ``noted`` gives what the rollout of the last step saw, ``trained`` are the weights that should move.
    """

    def __init__(
        self,
        score: Callable[[], dict[str, float]],
        better: Callable,
        noted: Callable[[], dict[str, Any]],
        log: Callable[[dict[str, float]], None],
        trained: Mapping[str, torch.Tensor],
        every: int,
        content: bool,
        aim: Literal["accuracy", "reward"],
        work: Path,
    ) -> None:
        self.score, self.better, self.noted, self.log, self.every = score, better, noted, log, every
        self.content, self.aim, self.work, self.trained = content, aim, work, trained
        self.before = {name: p.detach().clone() for name, p in trained.items()}
        self.curve, self.steps = processes.by_main(self.written)

    def written(self) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
        """The curve and the steps on the disk."""
        curve, log = self.work / "curve.json", self.work / "train.jsonl"
        points = json.loads(curve.read_text()) if curve.is_file() else []
        return points, [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def kept(self) -> dict[str, float] | None:
        """The point of the curve whose adapter is kept."""
        kept = None
        for point in self.curve:
            if kept is None or self.better(point, kept, self.curve[0]):
                kept = point
        return kept

    def look(self, model, step: int) -> None:
        """Score the adapter on dev, and keep it where it is the best."""
        point = {"step": step} | self.score()
        processes.by_main(lambda: self.keep(model, point))
        self.curve.append(point)
        self.log({f"dev_{key}": value for key, value in point.items() if key not in ("step", "n", "thinks")})

    def keep(self, model, point: dict[str, float]) -> None:
        """Write down a new point of the curve, and the adapter where it is the best."""
        kept = self.kept()
        if kept is None or self.better(point, kept, self.curve[0]):
            aside = self.work / "best.new"
            model.save_pretrained(aside, selected_adapters=["default"])
            shutil.rmtree(self.work / "best", ignore_errors=True)
            aside.rename(self.work / "best")
        write_json(self.work / "curve.json", [*self.curve, point])

    def on_train_begin(self, args, state, control, model, **kwargs):
        """Forget what came after the checkpoint from which a training goes on."""
        self.curve = [point for point in self.curve if point["step"] <= state.global_step]
        self.steps = [step for step in self.steps if step["step"] <= state.global_step]
        if processes.main():
            (self.work / "alarm.txt").unlink(missing_ok=True)
            write_text(self.work / "train.jsonl", "".join(json.dumps(step) + "\n" for step in self.steps))
        if not self.curve:
            self.look(model, 0)
        self.listen(control)

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()

    def on_log(self, args, state, control, logs, **kwargs):
        if "reward" not in logs:
            return
        step = {"step": state.global_step} | self.noted()
        step |= {"entropy": logs["entropy"], "grad_norm": logs["grad_norm"]}
        step["moved"] = math.sqrt(
            sum(float((p.detach() - self.before[n]).square().sum()) for n, p in self.trained.items())
        )
        step["seconds"] = round(self.took, 2)
        step = processes.by_main(lambda: step)  # drift and time are each process's own
        self.steps.append(step)
        if processes.main():
            with open(self.work / "train.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(step) + "\n")
        self.listen(control)

    def on_step_end(self, args, state, control, model, **kwargs):
        self.took = time.monotonic() - self.began  # the look at dev not counted
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.look(model, state.global_step)
            self.listen(control)

    def listen(self, control) -> None:
        """Stop the training where something is wrong with it."""
        if heard := alarm(self.steps, self.curve, self.content, self.aim):
            last = max([point["step"] for point in self.curve] + [step["step"] for step in self.steps])
            processes.by_main(lambda: write_text(self.work / "alarm.txt", f"stopped at step {last}: {heard}\n"))
            control.should_training_stop = True


def alarm(
    steps: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, float]],
    content: bool,
    aim: Literal["accuracy", "reward"] = "accuracy",
) -> str | None:
    """What is wrong with a training by its steps' log and its dev curve; None where nothing is.

    The last steps are compared with the first ones level by level, since the sampler changes the levels it draws; what
    falls on dev must be more than chance. ``content``: whether the samples are the model's own from the first token, so
    that their reward, length and entropy say something; ``aim``: what should not fall on dev.
    """
    if len(curve) > 1:
        first, last, n = curve[0][aim], curve[-1][aim], curve[0]["n"]
        if last < 0.75 * first and first - last > 2 * math.sqrt(first * (1 - first) / n):
            return f"{aim} on dev fell from {first:.1%} to {last:.1%}"
    if steps and steps[-1]["drift"] > 0.1:
        return (
            f"the samples are not the trained model's: their log-probabilities differ by {steps[-1]['drift']:.2f} nats "
            "a token from what it gives them"
        )
    moved = [0.0, *(step["moved"] for step in steps)][-FIRST - 1 :]
    if len(moved) > FIRST and len(set(moved)) == 1:
        return f"no weight has moved in {FIRST} steps"
    if not content or len(steps) < 2 * FIRST:
        return None
    begun, now = (fmean(step["entropy"] for step in part) for part in (steps[:FIRST], steps[-FIRST:]))
    if now < 0.1 * begun:
        return f"the entropy fell from {begun:.3f} to {now:.3f} nats a token"
    before, after = _by_level(steps[:FIRST]), _by_level(steps[-FIRST:])
    shared = before.keys() & after.keys()
    if not shared:
        return None
    first_of, last_of = (
        {key: fmean(part[level][key] for level in shared) for key in ("reward", "length", "boxed", "correct")}
        for part in (before, after)
    )
    if first_of["reward"] > 0 and last_of["reward"] < 0.5 * first_of["reward"]:
        return f"the reward fell from {first_of['reward']:.2f} to {last_of['reward']:.2f}"
    if not 0.5 * first_of["length"] <= last_of["length"] <= 2 * first_of["length"]:
        return f"the length went from {first_of['length']:.0f} to {last_of['length']:.0f} tokens"
    if last_of["boxed"] > first_of["boxed"] + 0.1 and last_of["correct"] < first_of["correct"] - 0.1:
        return (
            f"the form climbed from {first_of['boxed']:.0%} to {last_of['boxed']:.0%} while right answers fell from "
            f"{first_of['correct']:.0%} to {last_of['correct']:.0%}"
        )
    return None


def _by_level(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The means of some steps' samples, by level."""
    levels = {level for step in steps for level in step["levels"]}
    return {
        level: {
            key: fmean(step["levels"][level][key] for step in steps if level in step["levels"])
            for key in ("reward", "length", "boxed", "correct")
        }
        for level in levels
    }
