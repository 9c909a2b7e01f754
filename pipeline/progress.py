"""What a run says while it goes on: bars with throughput and time left and lines, on standard error, and a log file a
stage. Where the output is no terminal a bar is a line every minute."""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

from data.records import BadInput, sha256_of, write_json

EVERY = 60.0  # seconds between two lines of a bar where the output is no terminal
SHOWN = ("loss", "reward", "correct", "boxed", "mixed", "entropy", "mean_token_accuracy", "grad_norm", "learning_rate")

# Of several processes the main one speaks; torchrun and `accelerate launch` say in RANK which it is.
MAIN = os.environ.get("RANK", "0") == "0"
console = Console(stderr=True, quiet=not MAIN)
log = logging.getLogger("ladder")
log.setLevel(logging.INFO)


def say(text: str) -> None:
    """A line on the console, and in the log."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    log.info(text)


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append what happens meanwhile to ``folder/log.txt``: what is said, the steps of trainings, the warnings of the
    libraries, and the error that ends it; of several processes, in the main one."""
    if not MAIN:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, BadInput)
        log.warning("ended by %s: %s", type(error).__name__, error, exc_info=not ours)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def rate(units: float, seconds: float, unit: str) -> str:
    """A throughput, such as "0.3 steps/s"."""
    each = units / seconds if seconds else 0.0
    return f"{each:{'.0f' if each >= 10 else '.2g'}} {unit}/s"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


class _Throughput(ProgressColumn):
    def render(self, task) -> Text:
        return Text(rate(task.fields["units"], task.elapsed or 0.0, task.fields["unit"]))


class Bar:
    """A bar over ``total`` items, of which ``done`` were there at the start; ``unit`` is what its throughput counts."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.items = self.units = 0
        self.began = self.told = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Throughput(),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet or not console.is_terminal,
            transient=True,
        )
        self.task = self.progress.add_task(label, total=total, completed=done, units=0, unit=unit)
        self.progress.start()

    def advance(self, items: int, units: int) -> None:
        """Count items that were done, and how many units they were."""
        self.items, self.units = self.items + items, self.units + units
        self.progress.update(self.task, completed=self.done + self.items, units=self.units)
        now = time.monotonic()
        if not console.is_terminal and now - self.told >= EVERY:
            self.told = now
            say(self.line(now - self.began))

    def line(self, seconds: float) -> str:
        """How far it is after so many seconds."""
        done = self.done + self.items
        left = f", {duration(seconds / self.items * (self.total - done))} left" if self.items else ""
        return f"{self.label}: {done} of {self.total}, {rate(self.units, seconds, self.unit)}{left}"

    def stop(self) -> None:
        self.progress.stop()


@contextlib.contextmanager
def bar(label: str, total: int, unit: str = "tokens") -> Iterator[Callable[[int, int], None]]:
    """A bar over ``total`` items; the callable takes how many items were done and how many units they were."""
    shown = Bar(label, total, unit)
    try:
        yield shown.advance
    finally:
        shown.stop()


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
