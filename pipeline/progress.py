"""Bars with throughput and time left, on standard error; nothing is drawn where the output is no terminal."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback

from data.records import sha256_of, write_json

console = Console(stderr=True)


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
        disable=not console.is_terminal,
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
    return [p for p in sorted(work.iterdir()) if p.name not in ("inputs.json", SEAL) and "checkpoint-" not in p.name]


def last_checkpoint(work: Path) -> str | None:
    """The last checkpoint that is as it was written, said aloud, and what was kept beside it put back; None where a
    training begins. Others are removed, and without one all in ``work`` that is not sealed there."""
    for path in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if (lost := broken(path)) != []:
            if lost:
                console.print(f"{path / lost[0]} is not what was written; going back to before it", soft_wrap=True)
            shutil.rmtree(path)
            continue
        for kept in sorted((path / BESIDE).iterdir()):
            if kept.is_dir():
                shutil.rmtree(work / kept.name, ignore_errors=True)
                shutil.copytree(kept, work / kept.name)
            else:
                shutil.copy(kept, work / kept.name)
        console.print(f"going on from step {path.name.rpartition('-')[2]}")
        return str(path)
    lost = broken(work)
    sealed = set() if lost is None else set(json.loads((work / SEAL).read_text())) - set(lost)
    for path in _beside(work):
        if path.name not in sealed:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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
