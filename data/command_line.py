"""What the command lines of all three packages do alike: bad input is one line and exit status 2."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from data.files import DISK_FULL, UserError

# The statuses that a shell gives a command which Ctrl-C has ended, and one whose reader has gone.
INTERRUPTED = 130
UNREAD = 141

# What writes weights says it in words: safetensors as the system does, torch that a file is too short.
FULL_IN_WORDS = re.compile(r"os error (28|122|27)\)|file write failed|unexpected pos \d+ vs")


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with its errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number, ``minimum`` or more."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be {minimum} or more, not {text!r}")
        return int(text)

    return parse


Main = Callable[[Sequence[str] | None], int]


def exit_on_user_error(main: Main) -> Callable[..., int]:
    """Make a command end with status 2 and one line where the input is bad or the disk is full.

    A command takes its arguments, or None for those of the process, and returns its exit status. Ctrl-C gives one line
    too, and the status that shells give. A reader that has gone gives no line, and its status. Anything else that fails
    is a traceback and status 1.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            status = main(arguments)
            # Whoever reads it may be gone, which is to be known here.
            sys.stdout.flush()
            return status
        except UserError as error:
            _print_once(f"error: {error}")
        except KeyboardInterrupt:
            _print_once("stopped")
            return INTERRUPTED
        except BrokenPipeError:
            # Such as head, which has seen enough. The interpreter writes what is left at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return UNREAD
        except Exception as error:
            if not is_disk_full(error):
                raise
            place = getattr(error, "filename", None) or "the disk"
            _print_once(f"error: {place}: no space left on the disk; free some and rerun")
        return 2

    return run


def _print_once(message: str) -> None:
    # Of several processes one says it.
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that it came from, is that of a full disk, a quota or a limit on files."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True

    # The error that was caught first may lie behind others.
    cause = error.__cause__ or error.__context__
    return bool(FULL_IN_WORDS.search(str(error))) or is_disk_full(cause)
