"""The small frozen records that cross every boundary, and their JSONL files.

A file is a list of records, one JSON object a line, in UTF-8. Reading is strict: a bad line raises
:class:`BadInput`, which names the file, the line and the remedy. Writing is atomic: a file is either
there whole or not at all.
"""

import difflib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

KINDS = ("number", "label", "text")
FINISHES = ("stop", "length")
VERDICTS = ("correct", "wrong", "no_answer", "unclosed", "truncated")


class BadInput(Exception):
    """Something the user gave is wrong: one line that says what, where and how to mend it (exit status 2)."""


@dataclass(frozen=True)
class Problem:
    """One question with its exact answer; ``rationale`` is a worked trace, one step a line."""

    id: str
    question: str
    answer: str
    kind: str
    choices: tuple[str, ...] | None = None
    family: str = ""
    level: int = 0
    rationale: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Completion:
    """What a model wrote for one problem, without the end-of-turn token.

    Token counts are the model's own tokens: ``thinking_tokens`` those between the think tags, ``answer_tokens``
    all others that were generated or forced (tags, answer, end of turn), so their sum is what the completion cost.
    ``finish`` is "stop" where the model ended its turn itself.
    """

    id: str
    text: str
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    finish: str


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion; ``boxed`` says whether the answer came in the boxed form."""

    id: str
    correct: bool
    extracted: str | None
    verdict: str
    boxed: bool


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint for a wrong name: the nearest valid one where there is one, and all of them."""
    names = list(valid)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"did you mean {match[0]}? " if match else "") + "valid: " + ", ".join(names)


def guess_kind(answer: str, choices: object) -> str:
    """The kind of an answer whose record names none."""
    if re.fullmatch(r"[-+−$€£]?\s*\d[\d,]*(\.\d+)?\s*%?(/\d+)?", answer.strip()):
        return "number"
    if choices or answer.strip().lower() in {"yes", "no", "true", "false", "valid", "invalid", "unknown"}:
        return "label"
    return "text"


def problem_of(row: Mapping[str, Any], where: str) -> Problem:
    """The problem that a row of a benchmark file is; BadInput names ``where``."""
    for key in ("id", "question", "answer"):
        value = row.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
            raise BadInput(f"{where}: {key!r} is missing, empty or no text; every line needs id, question and answer")
    if isinstance(row["answer"], float) and not math.isfinite(row["answer"]):
        raise BadInput(f"{where}: the answer is not finite; write it as a number or a text")
    choices = row.get("choices")
    if choices is not None and not (
        isinstance(choices, list) and choices and all(isinstance(c, str) and c.strip() for c in choices)
    ):
        raise BadInput(f"{where}: 'choices' must be a list of texts, or be left out")
    meta = row["meta"] if isinstance(row.get("meta"), Mapping) else {}
    answer = str(row["answer"]).strip()
    kind = row.get("kind") or meta.get("answer_kind") or guess_kind(answer, choices)
    if kind not in KINDS:
        raise BadInput(f"{where}: kind {kind!r} is unknown; valid: {', '.join(KINDS)}")
    rationale = row.get("rationale")
    if rationale is not None and not isinstance(rationale, str):
        raise BadInput(f"{where}: 'rationale' must be a text, or be left out")
    level = row.get("level") or 0
    if isinstance(level, bool) or not isinstance(level, int):
        raise BadInput(f"{where}: 'level' must be a whole number, or be left out")
    known = {f.name for f in fields(Problem)}
    return Problem(
        id=str(row["id"]),
        question=str(row["question"]),
        answer=answer,
        kind=kind,
        choices=tuple(choices) if choices else None,
        family=str(row.get("family") or ""),
        level=level,
        rationale=rationale,
        extra={k: v for k, v in row.items() if k not in known},
    )


def rows_of(path: Path | str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each line's place ("file:line") and its object."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; check the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 JSONL") from None
    seen: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON ({error}); every line must be one JSON object") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: a JSON {type(row).__name__}, not an object; every line must be one JSON object")
        identity = str(row.get("id"))
        if "id" in row and identity in seen:
            raise BadInput(f"{where}: id {identity!r} is already at {seen[identity]}; ids must be unique")
        seen[identity] = where
        yield where, row
    if not seen:
        raise BadInput(f"{path}: no records in it; every line must be one JSON object")


def read_problems(path: Path | str) -> list[Problem]:
    """Read a benchmark file; raises BadInput with the file and line of the first fault."""
    return [problem_of(row, where) for where, row in rows_of(path)]


def _typed(record: type[T], path: Path | str, types: Mapping[str, type | tuple[type, ...]]) -> list[T]:
    records = []
    for where, row in rows_of(path):
        for key, kind in types.items():
            value = row.get(key)
            if key not in row or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise BadInput(f"{where}: {key!r} is missing or of the wrong type; needed: {', '.join(types)}")
        records.append(record(**{key: row[key] for key in types}))
    return records


def read_completions(path: Path | str) -> list[Completion]:
    """Read a completions file; raises BadInput with the file and line of the first fault."""
    types = {"id": str, "text": str, "prompt_tokens": int, "thinking_tokens": int, "answer_tokens": int, "finish": str}
    completions = _typed(Completion, path, types)
    for completion in completions:
        if completion.finish not in FINISHES:
            raise BadInput(f"{path}: id {completion.id!r} has finish {completion.finish!r}; {nearest('', FINISHES)}")
    return completions


def read_grades(path: Path | str) -> list[Grade]:
    """Read a grades file; raises BadInput with the file and line of the first fault."""
    types: dict[str, type | tuple[type, ...]] = {
        "id": str,
        "correct": bool,
        "extracted": (str, type(None)),
        "verdict": str,
        "boxed": bool,
    }
    return _typed(Grade, path, types)


def record_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object: extra keys are merged back, empty optional ones left out."""
    row = {f.name: getattr(record, f.name) for f in fields(record)}
    extra = row.pop("extra", {})
    if isinstance(record, Problem):
        row = {key: value for key, value in row.items() if value not in (None, "", 0)}
    return row | extra


def split_of(key: str) -> str:
    """The split a content key belongs to, for good: 60 % train, 15 % dev, 25 % test."""
    place = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return "train" if place < 60 else "dev" if place < 75 else "test"


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they are not there; BadInput where that, or writing into it, cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise BadInput(f"{path}: cannot be written to ({error.strerror}); name another place") from None


def write_text(path: Path | str, text: str) -> None:
    """Write a file atomically: aside, synced, renamed. Parent folders are made. Raises BadInput where it cannot be."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: cannot be written (it is a folder); name another place")
    make_folder(path.parent)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # A lone surrogate, which JSON can smuggle in and UTF-8 cannot write, is written as its escape.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_records(path: Path | str, records: Iterable[Any]) -> None:
    """Write records as JSONL, atomically."""
    write_text(path, "".join(json.dumps(record_json(r), ensure_ascii=False) + "\n" for r in records))


def write_json(path: Path | str, value: object) -> None:
    """Write one indented JSON value, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sha256_of(path: Path | str) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
