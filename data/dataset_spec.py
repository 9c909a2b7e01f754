"""Which problems of which data set: an entry of ``problems:`` in a recipe, or a text such as ``gsm8k?take=9``."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic

from data.files import UserError, suggest

MAX_TAKE = 100_000
LEFT_OUT = "none"  # the name of no field

DEV_NAMES = ("dev", "validation", "valid", "val")

Take = Annotated[int, pydantic.Field(ge=1, le=MAX_TAKE)]
# Left out of what is hashed of a run where there are none: runs that name none stay what they were.
Labels = Annotated[str | None, pydantic.Field(exclude_if=lambda labels: labels is None)]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class DatasetSpec:
    """Which problems: an entry of ``problems:`` in a recipe, or ``SET?key=value&…`` on the command line.

    ``families`` and ``levels`` leave only these ("ordering,syllogism", "1,2").
    Without a ``split``, training takes the train split, and a benchmark the test split, or the whole of a file.
    ``id`` to ``family`` name the fields of a row ("question.stem" one within another), two of them joined as
    "passage,question", or a template such as "{passage} Is it true that {question}?"; "none" leaves a field out.
    ``answer_after`` is what the answer stands behind in its field ("####" at the start of a line, where that is there),
    the rest being the rationale. ``options`` are the choices of every problem ("yes,no"), ``labels`` what the answer
    calls the choices ("0,1,2,3"), ``kind`` is the kind of every answer. ``file`` is a local copy of a set of the hub.
    """

    set: str
    split: str | None = None
    take: Take | None = None
    families: str | None = None
    levels: str | None = None
    config: str | None = None
    revision: str | None = None
    file: str | None = None
    id: str | None = None
    question: str | None = None
    answer: str | None = None
    choices: str | None = None
    rationale: str | None = None
    level: str | None = None
    family: str | None = None
    answer_after: str | None = None
    options: str | None = None
    kind: Literal["number", "label", "text"] | None = None
    labels: Labels = None


# All but the set, which is the text before "?".
KEYS = [field.name for field in dataclasses.fields(DatasetSpec)][1:]

# Names and fields as lm-evaluation-harness 0.4.13 reads gsm8k and bbh, and as the page of ChilleD/SVAMP gives them.
BUILT_IN = {
    "gsm8k": "openai/gsm8k?config=main&answer_after=####&kind=number",
    "svamp": "ChilleD/SVAMP?id=ID&question=question_concat&answer=Answer&kind=number",
    "bbh_boolean_expressions": (
        "SaylorTwift/bbh?config=boolean_expressions&question=input&answer=target&options=True,False&kind=label"
    ),
    "bbh_formal_fallacies": (
        "SaylorTwift/bbh?config=formal_fallacies&question=input&answer=target&options=valid,invalid&kind=label"
    ),
}


def split_list(text: str) -> list[str]:
    """The parts of a text such as "ordering, rules"."""
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part]


def parse_spec(text: str) -> DatasetSpec:
    """The data set that a text such as "gsm8k?split=train&take=10" names."""
    name, _, query = text.partition("?")
    values: dict[str, Any] = {}

    pairs = query.split("&") if query else []
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in KEYS or not value:
            raise UserError(f"data set {text}: {key!r} is no key or has no value; {suggest(key, KEYS)}")
        values[key] = value

    try:
        return DatasetSpec(name, **values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"data set {text}: {first['loc'][0]}={first['input']}: {first['msg']}") from None


def list_given(spec: DatasetSpec) -> dict[str, Any]:
    """The keys that a spec has a value for, without the set."""
    values = {key: getattr(spec, key) for key in KEYS}
    return {key: value for key, value in values.items() if value is not None}
