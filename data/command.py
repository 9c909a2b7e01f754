"""What the command lines of all three packages do alike: bad input is one line and exit status 2."""

import argparse
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from data.records import BadInput

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit on files


class Parser(argparse.ArgumentParser):
    """argparse, with its errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see {self.prog} --help")


Main = Callable[[Sequence[str] | None], int]


def one_line_errors(main: Main) -> Callable[..., int]:
    """Make a command (its arguments, those of the process where None -> its exit status) end with 2 and one line where
    the input is bad or the disk full; anything else that fails is a traceback and 1."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except BadInput as error:
            if os.environ.get("RANK", "0") == "0":  # of several processes one says it
                print(f"error: {error}", file=sys.stderr)
        except Exception as error:
            if not disk_full(error):
                raise
            place = getattr(error, "filename", None) or "the disk"
            print(f"error: {place}: no space left on the disk; free some and rerun", file=sys.stderr)
        return 2

    return run


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that it came from, is that of a full disk, a quota or a limit on files. What writes
    weights tells it in words: safetensors as the system's, torch as that a file did not become as long as it should."""
    if error is None:
        return False
    told = isinstance(error, OSError) and error.errno in FULL
    told = told or bool(re.search(r"os error (28|122|27)\)|file write failed|unexpected pos \d+ vs", str(error)))
    return told or disk_full(error.__cause__ or error.__context__)
