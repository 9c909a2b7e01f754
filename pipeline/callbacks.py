"""What is hung on TRL's trainers: their bar, their log, and checkpoints that are known to be whole."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import transformers
from transformers import TrainerCallback

from data.records import sha256_of, write_json
from pipeline.progress import Bar, log, say

SHOWN = ("loss", "reward", "correct", "boxed", "mixed", "entropy", "mean_token_accuracy", "grad_norm", "learning_rate")

SEAL, BESIDE = "sealed.json", "beside"


def seal(folder: Path, files: Iterable[Path]) -> None:
    """Note the sha256 of files in a folder, by which :func:`broken` knows them again."""
    write_json(folder / SEAL, {str(path.relative_to(folder)): sha256_of(path) for path in files})


def broken(folder: Path) -> list[str] | None:
    """The files of a folder that are not what was sealed; None where there is no seal."""
    try:
        known = json.loads((folder / SEAL).read_text(encoding="utf-8")).items()
    except (FileNotFoundError, ValueError, AttributeError):
        return None
    return [name for name, sha in known if not ((folder / name).is_file() and sha256_of(folder / name) == sha)]


class Seal(TrainerCallback):
    """Makes a checkpoint whole by itself: what else a training keeps in ``work`` is put ``beside`` it, then all is
    sealed."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = self.work / f"checkpoint-{state.global_step}"
        for path in _beside(self.work):
            (shutil.copytree if path.is_dir() else _copy)(path, checkpoint / BESIDE / path.name)
        # The random states are other processes' to write, too.
        files = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and not p.name.startswith("rng_state_")]
        seal(checkpoint, files)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    shutil.copy(path, to)


def _beside(work: Path) -> list[Path]:
    """What a training keeps in its folder besides its checkpoints."""
    return [p for p in sorted(work.glob("*")) if p.name not in ("inputs.json", SEAL) and "checkpoint-" not in p.name]


def last_checkpoint(work: Path) -> str | None:
    """The last checkpoint that is as it was written, said aloud, and what was kept beside it put back; None where a
    training begins. Others are removed, and without one all in ``work`` that is not sealed there."""
    for path in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if (lost := broken(path)) != []:
            if lost:
                say(f"{path / lost[0]} is not what was written; going back to before it")
            shutil.rmtree(path)
            continue
        for kept in sorted((path / BESIDE).iterdir()):
            if kept.is_dir():
                shutil.rmtree(work / kept.name, ignore_errors=True)
                shutil.copytree(kept, work / kept.name)
            else:
                shutil.copy(kept, work / kept.name)
        say(f"going on from step {path.name.rpartition('-')[2]}")
        return str(path)
    lost = broken(work)
    sealed = set() if lost is None else set(json.loads((work / SEAL).read_text())) - set(lost)
    for path in _beside(work):
        if path.name not in sealed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def training_bar(label: str) -> TrainerCallback:
    """A bar over the optimizer steps of a trainer, and what it logs, in the log."""
    return _TrainingBar(label)


def show(trainer, values: dict[str, float]) -> None:
    """Log values of a TRL trainer, without the metrics of the step, which TRL's own ``log`` would take along."""
    due = trainer.control.should_log
    transformers.Trainer.log(trainer, values)
    trainer.control.should_log = due  # the step's own log is still to come


class _TrainingBar(TrainerCallback):
    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = Bar(self.label, state.max_steps, "steps", state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        steps = state.global_step - self.bar.done - self.bar.items
        self.bar.advance(steps, steps)

    def on_log(self, args, state, control, logs, **kwargs):
        said = [f"{key} {logs[key]:.4g}" for key in logs if key in SHOWN or key.startswith("dev_")]
        if said:
            log.info(f"{self.label}: step {state.global_step} of {state.max_steps}: {', '.join(said)}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()
