"""Bars with throughput and time left, on standard error; nothing is drawn where the output is no terminal."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

# Of several processes the main one speaks; torchrun and `accelerate launch` say in RANK which it is.
console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")


class _Throughput(ProgressColumn):
    def render(self, task) -> Text:
        if not task.elapsed:
            return Text("")
        return Text(f"{task.fields['units'] / task.elapsed:.0f} {task.fields['unit']}/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Throughput(),
        TimeRemainingColumn(),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )


@contextlib.contextmanager
def bar(label: str, total: int, unit: str = "tokens") -> Iterator[Callable[[int, int], None]]:
    """A bar over ``total`` items; the callable takes how many items were done and how many units they were."""
    with _progress() as progress:
        task = progress.add_task(label, total=total, units=0, unit=unit)

        def advance(items: int, units: int) -> None:
            progress.update(task, advance=items, units=progress.tasks[0].fields["units"] + units)

        yield advance


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint, said aloud; None where a training begins. Half-written ones are removed."""
    for path in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())  # the trainer writes it last
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
            continue
        console.print(f"going on from step {path.name.rpartition('-')[2]}")
        return str(path)
    return None


def training_bar(label: str) -> TrainerCallback:
    """A bar over the optimizer steps of a trainer."""
    return _TrainingBar(label)


class _TrainingBar(TrainerCallback):
    def __init__(self, label: str) -> None:
        self.label, self.progress = label, _progress()

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.progress.add_task(self.label, total=state.max_steps, units=0, unit="steps")
        self.progress.update(self.task, completed=state.global_step)
        self.start = state.global_step
        self.progress.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(self.task, completed=state.global_step, units=state.global_step - self.start)

    def on_train_end(self, args, state, control, **kwargs):
        self.progress.stop()
