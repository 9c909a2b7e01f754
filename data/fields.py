"""The rows of a file or of the hub under our field names."""

import re
from collections.abc import Mapping
from typing import Any

from data.dataset_spec import LEFT_OUT, DatasetSpec, split_list
from data.files import UserError, suggest

MAPPED_FIELDS = ("id", "question", "answer", "choices", "rationale", "family", "level")

# A field in a template.
_BRACED = re.compile(r"\{([^{}]+)\}")


def map_fields(row: Mapping[str, Any], spec: DatasetSpec, place: str) -> dict[str, Any]:
    """A row with our field names."""
    # Fields without another name stay as they are, those that are not ours too.
    record = dict(row)
    for field in MAPPED_FIELDS:
        mapping = getattr(spec, field)
        if mapping == LEFT_OUT:
            record.pop(field, None)
        elif mapping:
            record[field] = _read_field(row, mapping, place)

    # A rationale may be a list of steps.
    for field in ("question", "rationale"):
        if isinstance(record.get(field), list):
            record[field] = _to_text(record[field], f"{place}: {field!r}")

    for field in ("question", "answer"):
        if field not in record:
            raise UserError(f"{place}: no field {field!r}; name it by {field}=FIELD; {suggest(field, row)}")
    _split_answer(record, spec, place)

    if spec.options:
        record["choices"] = split_list(spec.options)
    if spec.labels:
        labels = split_list(spec.labels)
        record["choices"] = {"text": record.get("choices"), "label": labels}
    if spec.kind:
        record["kind"] = spec.kind
    return record


def _split_answer(record: dict[str, Any], spec: DatasetSpec, place: str) -> None:
    """Take the rationale off that stands before an answer in its field."""
    # The last mark: a rationale may hold others.
    before, mark, answer = str(record["answer"]).rpartition(spec.answer_after or "\n####")
    if mark:
        record["answer"] = answer.strip()
        if spec.rationale != LEFT_OUT:
            record.setdefault("rationale", before.strip())
    elif spec.answer_after:
        raise UserError(f"{place}: the answer has no {spec.answer_after!r}; fix the line or answer_after=")


def _read_field(row: Mapping[str, Any], mapping: str, place: str) -> Any:
    """A field of a row; or several as one text, joined or in a template."""
    names = _BRACED.findall(mapping) or split_list(mapping)
    # A single field keeps its type: choices are a list.
    if mapping in names:
        return _find_field(row, mapping, place)

    texts = {}
    for name in names:
        value = _find_field(row, name, place)
        texts[name] = _to_text(value, f"{place}: {name!r}")
    if "{" not in mapping:
        return " ".join(texts.values())
    return _BRACED.sub(lambda match: texts[match[1]], mapping)


def _find_field(row: Mapping[str, Any], name: str, place: str) -> Any:
    """A field by its name, or within others: "question.stem"."""
    if name in row:
        return row[name]

    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"{place}: no field {name!r}; {suggest(name, row)}")
        value = value[part]
    return value


def _to_text(value: Any, where: str) -> str:
    """A text, a number, or a list of texts as its lines."""
    if isinstance(value, str | int | float):
        return str(value).strip()
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    raise UserError(f"{where} is no text; name another field")
