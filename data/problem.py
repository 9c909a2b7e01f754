"""The three small frozen records that cross every boundary, and their JSONL files."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, TypeVar, get_type_hints

from data.files import AnyPath, UserError, read_jsonl, suggest, write_jsonl
from data.golds import parse_choices, resolve_gold

T = TypeVar("T")

KINDS = ("number", "label", "text")
FINISHES = ("stop", "length")
VERDICTS = ("correct", "wrong", "no_answer", "undecided", "unclosed", "truncated")

# Answers that are labels even where a record lists no choices.
USUAL_LABELS = {"yes", "no", "true", "false", "valid", "invalid", "unknown"}


@dataclass(frozen=True)
class Problem:
    """One question with its exact answer.

    ``rationale`` is a worked solution, one step a line; ``extra`` holds the keys of its record that are not ours.
    """

    id: str
    question: str
    answer: str
    kind: str
    choices: tuple[str, ...] | None = None
    family: str = ""
    level: int = 0
    rationale: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, compare=False)


# What is not among these is an extra key.
_FIELDS = {each.name for each in fields(Problem)}


@dataclass(frozen=True)
class Completion:
    """What a model wrote for one problem, without the end-of-turn token.

    Token counts are the model's own tokens: ``thinking_tokens`` those between the think tags, ``answer_tokens`` all
    others that were generated or forced (tags, answer, end of turn). ``finish`` is "stop" where the model ended its
    turn itself, "length" where the limit did.
    """

    id: str
    text: str
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    finish: str

    @property
    def tokens(self) -> int:
        """What the completion cost."""
        return self.thinking_tokens + self.answer_tokens


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion; ``boxed`` says whether the answer came in the boxed form."""

    id: str
    correct: bool
    extracted: str | None
    verdict: str
    boxed: bool


def guess_kind(answer: str, choices: object) -> str:
    """The kind of an answer whose record names none."""
    # A comma before other than three digits parts a list: "3,5,7".
    if re.fullmatch(r"[-+−$€£]?\s*(\d{1,3}(,\d{3})+|\d+)(\.\d+)?\s*%?(/\d+)?", answer.strip()):
        return "number"
    if choices or answer.strip().lower() in USUAL_LABELS:
        return "label"
    return "text"


def parse_problem(row: Mapping[str, Any], where: str) -> Problem:
    """The problem that a row of a benchmark file is.

    Raises:
        UserError: a field is missing or of the wrong type; the line names ``where``.
    """
    gold: Any = row.get("answer")
    # MultiArith has a list of one.
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    filled = {
        "id": _is_filled(row.get("id")),
        "question": _is_filled(row.get("question")),
        # BoolQ answers true or false.
        "answer": _is_filled(gold) or isinstance(gold, bool),
    }
    for key, is_filled in filled.items():
        if not is_filled:
            raise UserError(f"{where}: {key!r} is missing, empty or no text; every line needs id, question and answer")

    rationale = row.get("rationale")
    if not isinstance(rationale, str | None):
        raise UserError(f"{where}: 'rationale' must be a text, or be left out")
    # An empty one would teach empty thoughts.
    if rationale is not None and not rationale.strip():
        rationale = None

    answer = _write_number(gold) if isinstance(gold, float) else str(gold).strip()

    name = str(row["id"])
    choices = None
    if row.get("choices") is not None:
        choices, labels = parse_choices(row["choices"], where)
        answer = resolve_gold(gold, choices, f"{where}: {name!r}", labels)
    return Problem(
        id=name,
        question=str(row["question"]),
        answer=answer,
        kind=_choose_kind(row, answer, where),
        choices=choices,
        family=str(row.get("family") or ""),
        level=_parse_level(row.get("level"), where),
        rationale=rationale,
        extra={key: value for key, value in row.items() if key not in _FIELDS},
    )


def _is_filled(value: object) -> bool:
    """Whether a value is a text that says something, or a number that can be written out."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, str) and bool(value.strip())


def _write_number(number: float) -> str:
    """A number of JSON in plain digits: 5.0 is 5, and 1e-5 is 0.00001."""
    # As an int, 1e23 would be 99999999999999991611392.
    digits = format(Decimal(str(number)), "f")
    return digits.removesuffix(".0")


def _parse_level(level: object, where: str) -> int:
    """The level that a number or a text is: "Level 5" is 5, and "Level ?" is none."""
    if not level or (isinstance(level, str) and level.endswith("?")):
        return 0
    if isinstance(level, int) and not isinstance(level, bool):
        return level

    digits = re.search(r"\d+", level) if isinstance(level, str) else None
    # Python reads 4300 digits at most.
    if digits is None or len(digits[0]) > 4300:
        raise UserError(f"{where}: 'level' must be a whole number, or a text with one, or be left out")
    return int(digits[0])


def _choose_kind(row: Mapping[str, Any], answer: str, where: str) -> str:
    meta = row.get("meta")
    hint = meta.get("answer_kind") if isinstance(meta, Mapping) else None
    kind = row.get("kind") or hint or guess_kind(answer, row.get("choices"))
    if kind not in KINDS:
        raise UserError(f"{where}: kind {kind!r} is unknown; valid: {', '.join(KINDS)}")
    return kind


# Files


def read_problems(path: AnyPath) -> list[Problem]:
    """Read a benchmark file; UserError names the file and line of the first fault."""
    return [parse_problem(row, where) for where, row in read_jsonl(path)]


def read_completions(path: AnyPath) -> list[Completion]:
    """Read a completions file; UserError names the file and line of the first fault."""
    completions = _read_typed(Completion, path)
    for completion in completions:
        if completion.finish not in FINISHES:
            raise UserError(f"{path}: id {completion.id!r} has finish {completion.finish!r}; {suggest('', FINISHES)}")
    return completions


def read_grades(path: AnyPath) -> list[Grade]:
    """Read a grades file; UserError names the file and line of the first fault."""
    return _read_typed(Grade, path)


def _read_typed(record: type[T], path: AnyPath) -> list[T]:
    """The rows of a file as records, each field of the type that the class says."""
    types = get_type_hints(record)

    records = []
    for where, row in read_jsonl(path):
        for key, expected in types.items():
            value = row.get(key)
            # An id may be a number in JSON, as in a benchmark.
            if key == "id" and type(value) is int:
                row[key] = value = str(value)
            # To Python, true is a whole number.
            is_bool_as_int = expected is int and isinstance(value, bool)
            if key not in row or not isinstance(value, expected) or is_bool_as_int:
                raise UserError(f"{where}: {key!r} is missing or of the wrong type; needed: {', '.join(types)}")
        records.append(record(**{key: row[key] for key in types}))
    return records


def record_to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object: extra keys are merged back, empty optional ones left out."""
    # Not dataclasses.asdict, which copies all that the extra keys hold.
    row = {each.name: getattr(record, each.name) for each in fields(record)}
    extra = row.pop("extra", {})

    if isinstance(record, Problem):
        # What :func:`parse_problem` puts where a field is missing.
        row = {key: value for key, value in row.items() if value not in (None, "", 0)}
    return row | extra


def write_records(path: AnyPath, records: Iterable[Any]) -> None:
    """Write records as JSONL, atomically."""
    write_jsonl(path, [record_to_json(record) for record in records])
