"""Which choice a benchmark's answer means: its text, its letter, its index or its key, by one rule.

The readings of an answer, each tried on its own:

- its text: the answer is the text of a choice, whatever the case, spaces and brackets around it; true and false of
  JSON (BoolQ) are a choice "True" or "yes", "False" or "no";
- its letter: "B" is the second choice, unless all choices are single letters themselves;
- its index: a number in JSON (MMLU: 2) counts from 0;
- its key: digits in a text (ARC: "2") count from 1.

Readings that mean different choices make the answer ambiguous; then it is refused, and never guessed. Where a record
labels its choices itself (ARC), a label means its choice, and nothing else is tried.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.files import UserError

# "(A) wolf" and "A) wolf", and "- wolf" in a question.
_MARKED = re.compile(r"(?P<mark>\(?[A-Z]\))\s*(?P<text>\S.*)", re.DOTALL)
_OPTION = re.compile(r"^\s*(?:- +)?(\S.*?)\s*$", re.MULTILINE)


def parse_choices(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the choices of a record, and what labels them; no labels where nothing does.

    They are a list of texts; texts with their labels (ARC); texts marked "A)", "B)" (LogicalDeduction); or a question
    whose lines after "Options:" are the choices (BIG-Bench Hard).

    Raises:
        UserError: they are none of these; the line names ``where``.
    """
    if isinstance(value, str) and "\nOptions:" in value:
        value = _OPTION.findall(value.rpartition("\nOptions:")[2])

    labels = None
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        value = {key: [each.get(key) for each in value] for key in ("text", "label")}
    if isinstance(value, Mapping):
        value, labels = value.get("text"), value.get("label")
        are_lists = isinstance(value, list) and isinstance(labels, list)
        if not are_lists or len(labels) < len(value):
            raise UserError(f"{where}: 'choices' must have a text and a label each, or be a list of texts")

    texts = value if isinstance(value, list) else []
    are_filled = [isinstance(text, str) and bool(text.strip()) for text in texts]
    if not texts or not all(are_filled):
        raise UserError(f"{where}: 'choices' must be a list of texts, or be left out")
    if labels is not None:
        return tuple(texts), tuple(map(str, labels[: len(texts)]))

    # The marks are labels only where all choices have theirs, in order.
    marked = [match for text in texts if (match := _MARKED.fullmatch(text.strip()))]
    marks = [match["mark"].strip("()") for match in marked]
    if marks == [chr(ord("A") + place) for place in range(len(texts))]:
        return tuple(match["text"] for match in marked), tuple(marks)
    return tuple(texts), ()


def resolve_gold(answer: str | int | float, choices: Sequence[str], where: str, labels: Sequence[str] = ()) -> str:
    """Return the text of the choice that an answer means; the answer as it is where it means none.

    Raises:
        UserError: it means several; the line names ``where``.
    """
    text = _normalize(str(answer))
    for choice, label in zip(choices, labels, strict=False):
        if text == _normalize(label):
            return choice.strip()

    meanings = _find_meanings(answer, choices)
    if not meanings:
        return str(answer).strip()

    if len(set(meanings.values())) > 1:
        readings = ", ".join(f"{choices[place]!r} by its {reading}" for reading, place in meanings.items())
        raise UserError(f"{where}: the answer {answer!r} is ambiguous: {readings}; give the choice's text or letter")
    return choices[next(iter(meanings.values()))].strip()


def _find_meanings(answer: str | int | float, choices: Sequence[str]) -> dict[str, int]:
    """Return the place of the choice for each reading that an answer has."""
    text = _normalize(str(answer))
    texts = [_normalize(choice) for choice in choices]
    meanings = {}

    names = {text}
    if isinstance(answer, bool):
        names = {"true", "yes"} if answer else {"false", "no"}
    places = [place for place, choice in enumerate(texts) if choice in names]
    # Two choices with one text are told apart by the letter only.
    if len(places) == 1:
        meanings["text"] = places[0]

    letter = re.compile("[a-z]")
    are_letters = all(map(letter.fullmatch, texts))
    if letter.fullmatch(text) and not are_letters:
        meanings["letter"] = ord(text) - ord("a")
    elif type(answer) is int:
        meanings["index"] = answer
    elif isinstance(answer, str) and re.fullmatch("[0-9]{1,2}", text):
        meanings["key"] = int(text) - 1

    return {reading: place for reading, place in meanings.items() if 0 <= place < len(choices)}


def _normalize(text: str) -> str:
    bare = " ".join(text.split()).casefold()
    match = re.fullmatch(r"\(([^()]*)\)", bare)
    return match[1].strip() if match else bare
