"""What a run says while it goes on: bars with throughput and time left and lines, on standard error, and a log file a
stage. Where the output is no terminal a bar is a line every minute."""

import contextlib
import logging
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from data.records import BadInput

EVERY = 60.0  # seconds between two lines of a bar where the output is no terminal

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


def printable(text: str) -> str:
    """A text that a terminal shows and never obeys: control, format and unassigned characters (escape sequences, and
    marks that turn the direction of writing) as their escapes, lines and tabs as they are."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text
    )


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
