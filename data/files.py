"""Files: strict reading, atomic writing, checksums, and the one error that a user can cause.

A file is either there whole or not at all. What grows while a run goes on is appended with a checksum a line, so that
a line that a kill or a bad disk has damaged is noticed and left out.
"""

import contextlib
import difflib
import errno
import hashlib
import json
import os
import secrets
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

AnyPath = Path | str

# A full disk, a quota or a limit on files, which a command tells at its end.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user gave is wrong: one line that says what, where and how to fix it (exit status 2)."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """The hint for a wrong name: the nearest valid one where there is one, and all of them."""
    names = list(valid)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]}? " if matches else ""
    return hint + "valid: " + ", ".join(names)


# Reading


def read_jsonl(path: AnyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place and its object, as :func:`read_rows`; UserError where an id stands twice."""
    seen: dict[str, str] = {}
    for place, row in read_rows(path):
        if "id" in row:
            identity = str(row["id"])
            if identity in seen:
                raise UserError(f"{place}: id {identity!r} is already at {seen[identity]}; ids must be unique")
            seen[identity] = place

        yield place, row


def read_rows(path: AnyPath) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place ("file:line") and its object, of a file with one JSON object a line.

    A file that is one JSON list of objects, or one object with such a list as ``examples``, is read too.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a row is no JSON object.
    """
    path = Path(path)
    count = 0
    for place, row in _split_rows(path):
        if not isinstance(row, dict):
            raise UserError(f"{place}: a JSON {type(row).__name__}, not an object; {_ROWS}")
        yield place, row
        count += 1

    if not count:
        raise UserError(f"{path}: no records in it; {_ROWS}")


_ROWS = "every line must be one JSON object, or the whole file one JSON list of them"


def _split_rows(path: Path) -> Iterator[tuple[str, Any]]:
    text = _read_utf8(path)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    # BIG-Bench Hard keeps its problems so.
    if isinstance(document, dict):
        document = document.get("examples")

    if isinstance(document, list):
        for number, value in enumerate(document):
            yield f"{path}, row {number}", value
        return

    for number, line in enumerate(text.split("\n"), 1):
        place = f"{path}:{number}"
        # Files end with an empty line, and some have others.
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}); {_ROWS}") from None
        yield place, value


def _read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 JSONL") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file") from None


def read_json(path: AnyPath) -> Any:
    """The value that a JSON file holds; UserError where it is missing or no JSON."""
    path = Path(path)
    try:
        return json.loads(_read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete it or write it again") from None


# Writing


def make_folder(path: Path, remedy: str = "name another place") -> None:
    """Make a folder and its parents where they are not there; UserError where nothing can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        _refuse_unless_full(path, error, remedy)


def write_text(path: AnyPath, text: str) -> None:
    """Write a file atomically: aside, synced, renamed. Parent folders are made; UserError where it cannot be.

    A symbolic link stays, and what it leads to is written. A device or a pipe is written through.
    """
    if _write_through(Path(path), text):
        return

    path = Path(os.path.realpath(path))
    # Unlike those of a Path, these take a name that is too long.
    if os.path.isdir(path) or os.path.islink(path):
        raise UserError(f"{path}: cannot be written (it is a folder, or a link to itself); name another place")
    make_folder(path.parent)

    # Another process may be writing the same file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # A lone surrogate, which JSON can smuggle in and UTF-8 cannot write, is written as its escape.
        with open(aside, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        # Under a name that is too long it was never there.
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            _refuse_unless_full(path, error)
        raise


def _refuse_unless_full(path: Path, error: OSError, remedy: str = "name another place") -> NoReturn:
    """Raise the error of a full disk as it is, any other as a UserError."""
    if error.errno in DISK_FULL:
        raise error
    raise UserError(f"{path}: cannot be written to ({error.strerror}); {remedy}") from None


def _write_through(path: Path, text: str) -> bool:
    """Write a text into what is no file, or is where our own output goes; False where a path is neither."""
    if not os.path.exists(path) or path.is_dir():
        return False

    # Standard output or standard error under its path, such as /dev/stdout.
    # A stream is written to as it is open: opened again, a file behind it would be cut, and written over by print().
    streams = [number for number in (1, 2) if _is_open_at(path, number)]
    if path.is_file() and not streams:
        return False

    sys.stdout.flush()
    target = streams[0] if streams else path
    try:
        with open(target, "w", encoding="utf-8", errors="backslashreplace", closefd=not streams) as file:
            file.write(text)
    except OSError as error:
        _refuse_unless_full(path, error)
    return True


def _is_open_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def write_json(path: AnyPath, value: object) -> None:
    """Write one indented JSON value, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: AnyPath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects, one a line, atomically."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(path, "".join(lines))


# Files that grow


def append_jsonl(path: AnyPath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line behind its checksum, and see them on the disk."""
    path = Path(path)
    make_folder(path.parent)
    lines = [_add_checksum(json.dumps(row, ensure_ascii=True)) + "\n" for row in rows]

    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_appended_jsonl(path: AnyPath) -> list[dict[str, Any]]:
    """The objects of a file that :func:`append_jsonl` wrote; lines that are cut or damaged are taken out of the file.

    Returns:
        All objects whose line is what was written; an empty list where there is no file.
    """
    path = Path(path)
    if not path.is_file():
        return []

    # A damaged byte may be no UTF-8; its line then misses its checksum.
    lines = path.read_bytes().decode(errors="replace").split("\n")
    # The checksum is of eight digits, with a space behind it.
    whole = [line for line in lines if line == _add_checksum(line[9:])]

    # The last piece is what follows the last newline, and empty in a whole file.
    if len(whole) < len(lines) - 1 or lines[-1]:
        write_text(path, "".join(f"{line}\n" for line in whole))
    return [json.loads(line[9:]) for line in whole]


def _add_checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x} {text}"


# Checksums


def sha256_file(path: AnyPath) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """The sha256 of a value as JSON, in hex."""
    # Two equal values may hold their keys in another order.
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
