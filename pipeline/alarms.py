"""What stops a GRPO training that has gone wrong: a collapse, weights that do not move, samples of other weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from data.files import write_text
from pipeline import processes

# So many steps at the start are compared with as many at the end.
WINDOW = 3

# Steps without any change of a weight.
STILL_STEPS = 2

# Nats a token between what the sampler and the trainer say of the same samples.
HIGHEST_DRIFT = 0.1


class AlarmCallback(TrainerCallback):
    """Stops a training where :func:`find_alarm` finds a reason, and writes it to alarm.txt in ``work``."""

    def __init__(self, model, work: Path) -> None:
        self.model = model
        self.work = work

    def on_train_begin(self, args, state, control, **kwargs):
        """Forget the alarm of an earlier run; the weights may come from a checkpoint."""
        processes.on_main_process(lambda: (self.work / "alarm.txt").unlink(missing_ok=True))
        self.norms = [measure_weights(self.model)]

    def on_step_end(self, args, state, control, **kwargs):
        """Measure the weights."""
        self.norms.append(measure_weights(self.model))

    def on_log(self, args, state, control, **kwargs):
        """Look at all that was logged, also before a checkpoint from which the training went on."""
        reason = find_alarm(state.log_history, self.norms)
        if reason is None:
            return

        text = f"stopped at step {state.global_step}: {reason}\n"
        processes.on_main_process(lambda: write_text(self.work / "alarm.txt", text))
        control.should_training_stop = True


def measure_weights(model) -> float:
    """Return a number that changes where any trained weight does; nan where no process has them whole."""
    if processes.find_sharded_modules(model):
        return math.nan

    total = 0.0
    for weights in model.parameters():
        if weights.requires_grad:
            # In double, or a small change would be lost in the sum.
            total += float(weights.detach().double().square().sum())
    return total


def find_alarm(log: Sequence[Mapping[str, Any]], norms: Sequence[float]) -> str | None:
    """Return what is wrong with a training, or None.

    Args:
        log: what the trainer logged: steps (``reward``, ``entropy``, ``drift``) and looks at dev (``eval_accuracy``,
            ``eval_n``).
        norms: a measure of the trained weights, before training and after each step.
    """
    steps = [row for row in log if "reward" in row]
    curve = [row for row in log if "eval_accuracy" in row]

    return (
        _find_fall_on_dev(curve)
        or _find_drift(steps)
        or _find_still_weights(norms)
        # GRPO sharpens as it learns, so entropy may fall further than reward before it is an alarm.
        or _find_collapse(steps, "entropy", 0.1)
        or _find_collapse(steps, "reward", 0.5)
    )


def _find_fall_on_dev(curve: Sequence[Mapping[str, Any]]) -> str | None:
    if len(curve) < 2:
        return None

    # A fall of the size of chance is none: two standard deviations.
    first = curve[0]["eval_accuracy"]
    last = curve[-1]["eval_accuracy"]
    by_chance = 2 * math.sqrt(first * (1 - first) / curve[0]["eval_n"])
    if last < 0.75 * first and first - last > by_chance:
        return f"accuracy on dev fell from {first:.1%} to {last:.1%}"
    return None


def _find_drift(steps: Sequence[Mapping[str, Any]]) -> str | None:
    # A single step says it: no training makes up for samples of another model.
    drift = steps[-1].get("drift", 0.0) if steps else 0.0
    if drift > HIGHEST_DRIFT:
        return f"the samples are not the trained model's: log-probabilities differ by {drift:.2f} nats a token"
    return None


def _find_still_weights(norms: Sequence[float]) -> str | None:
    # One more than the steps: a norm before them.
    last = norms[-STILL_STEPS - 1 :]
    if len(last) > STILL_STEPS and len(set(last)) == 1:
        return f"no weight has moved in {STILL_STEPS} steps"
    return None


def _find_collapse(steps: Sequence[Mapping[str, Any]], key: str, share: float) -> str | None:
    if len(steps) < 2 * WINDOW:
        return None

    # Single steps vary with the problems that were drawn.
    first = fmean(step[key] for step in steps[:WINDOW])
    last = fmean(step[key] for step in steps[-WINDOW:])
    if first > 0 and last < share * first:
        return f"the {key} fell from {first:.3f} to {last:.3f}"
    return None
