"""What a run says while it goes on: lines and progress bars on standard error, and a log file for each stage.

Where the output is no terminal, a bar is a line every minute.
"""

import contextlib
import logging
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.files import UserError

SECONDS_BETWEEN_LINES = 60.0

# Of several processes only the main one speaks. torchrun and `accelerate launch` say in RANK which one it is.
IS_MAIN = os.environ.get("RANK", "0") == "0"

console = Console(stderr=True, quiet=not IS_MAIN)
log = logging.getLogger("ladder")
log.setLevel(logging.INFO)


def say(text: str) -> None:
    """Write a line on the console and into the log."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    log.info(text)


@contextlib.contextmanager
def log_to(folder: Path) -> Iterator[None]:
    """Append what happens meanwhile to ``folder/log.txt``: lines, the libraries' warnings, the error that ends it."""
    if not IS_MAIN:
        yield
        return

    folder.mkdir(parents=True, exist_ok=True)
    # A library may log a text that UTF-8 cannot write.
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.addHandler(handler)

    try:
        yield
    except BaseException as error:
        # Where in our code bad input was noticed says nothing to a user.
        with_traceback = not isinstance(error, UserError)
        log.warning("ended by %s: %s", type(error).__name__, error, exc_info=with_traceback)
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


def printable(text: str) -> str:
    """Return a text that a terminal shows and never obeys: control and format characters as their escapes."""
    # A model may write what clears a screen or renames its window.
    shown = []
    for character in text:
        is_control = unicodedata.category(character).startswith("C")
        if is_control and character not in "\n\t":
            character = character.encode("unicode_escape").decode()
        shown.append(character)
    return "".join(shown)


def format_rate(units: float, seconds: float, unit: str) -> str:
    """Return a throughput, such as "0.3 steps/s"."""
    rate = units / seconds if seconds else 0.0
    digits = ".0f" if rate >= 10 else ".2g"
    return f"{rate:{digits}} {unit}/s"


def format_duration(seconds: float) -> str:
    """Return seconds in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class ProgressBar:
    """A bar over ``total`` items, ``done`` of which are already there; ``unit`` is what its throughput counts."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done_before = done
        self.items = 0
        self.units = 0
        self.start = self.last_line = time.monotonic()

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet or not console.is_terminal,
            # Lines stay; a bar that has ended says nothing.
            transient=True,
        )
        self.task = self.progress.add_task(label, total=total, completed=done, rate="")
        self.progress.start()

    def advance(self, items: int, units: int) -> None:
        """Count items that are done, and how many units they hold."""
        self.items += items
        self.units += units
        now = time.monotonic()
        rate = format_rate(self.units, now - self.start, self.unit)
        self.progress.update(self.task, advance=items, rate=rate)

        # In a file a bar would be thousands of lines.
        is_due = now - self.last_line >= SECONDS_BETWEEN_LINES
        if is_due and not console.is_terminal:
            self.last_line = now
            say(self.describe(now - self.start))

    def describe(self, seconds: float) -> str:
        """Return how far the bar is after so many seconds."""
        done = self.done_before + self.items
        line = f"{self.label}: {done} of {self.total}, {format_rate(self.units, seconds, self.unit)}"
        if not self.items:
            return line

        # What was there at the start took no time of this run.
        seconds_left = seconds / self.items * (self.total - done)
        return f"{line}, {format_duration(seconds_left)} left"

    def stop(self) -> None:
        """Take the bar off the screen."""
        self.progress.stop()


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str = "tokens") -> Iterator[Callable[[int, int], None]]:
    """Show a bar over ``total`` items; gives the function that takes how many items are done and their units."""
    bar = ProgressBar(label, total, unit)
    try:
        yield bar.advance
    finally:
        bar.stop()
