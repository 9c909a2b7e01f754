"""Which choice a benchmark's answer means: its text, its letter, its index or its key, by one rule.

The readings of an answer, each tried on its own:

- its text: the answer is the text of a choice, whatever the case, spaces and brackets around it; true and false of
  JSON (BoolQ) are a choice "True" or "yes", "False" or "no";
- its letter: "B" is the second choice, unless all choices are single letters themselves;
- its index: a number in JSON (MMLU: 2) counts from 0;
- its key: digits in a text (ARC: "2") count from 1.

Readings that mean different choices make the answer ambiguous; then it is refused, and never guessed. Where a record
labels its choices itself (ARC), a label means its choice. Where the labels are not A, B, C, … no other reading than the
text is tried beside it.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from data.files import UserError

Texts = tuple[str, ...]

# "(A) wolf" and "A) wolf", and "- wolf" in a question.
_MARKED = re.compile(r"(?P<mark>\(?[A-Z]\))\s*(?P<text>\S.*)", re.DOTALL)
_OPTION = re.compile(r"^\s*(?:- +)?(\S.*?)\s*$", re.MULTILINE)


def parse_choices(value: Any, where: str) -> tuple[Texts, Texts]:
    """Return the choices of a record, and what labels them; no labels where nothing does.

    They are a list of texts; texts with their labels (ARC); texts marked "A)", "B)" (LogicalDeduction); or a question
    whose lines after "Options:" are the choices (BIG-Bench Hard).

    Raises:
        UserError: they are none of these; the line names ``where``.
    """
    if isinstance(value, str) and "\nOptions:" in value:
        # The last heading: an example in the question may have options of its own.
        options = value.rpartition("\nOptions:")[2]
        value = _OPTION.findall(options)

    labels: Any = None
    if isinstance(value, Mapping):
        # One list of all texts, and one of all labels.
        labels = value.get("label")
        value = value.get("text")
        are_lists = isinstance(value, list) and isinstance(labels, list)
        if not are_lists or len(labels) < len(value):
            raise UserError(f"{where}: 'choices' must have a text and a label each, or be a list of texts")

    elif _is_list_of(value, Mapping):
        labels = [each.get("label") for each in value]
        value = [each.get("text") for each in value]

    if not _is_list_of(value, str) or not all(map(str.strip, value)):
        raise UserError(f"{where}: 'choices' must be a list of texts, or be left out")

    # Where one is missing, the others tell no choice from all others.
    if labels is None or None in labels:
        return _split_marks(value)

    # There may be more labels than choices.
    used = labels[: len(value)]
    return tuple(value), tuple(map(str, used))


def _is_list_of(value: Any, kind: type) -> bool:
    """Whether a value is a list that holds something, and nothing of another kind."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, kind) for each in value)


def _split_marks(choices: Sequence[str]) -> tuple[Texts, Texts]:
    """Return the choices without their marks, and the letters of these; as they are where one has another mark."""
    texts = []
    letters = []
    for choice in choices:
        match = _MARKED.fullmatch(choice.strip())
        if match:
            texts.append(match["text"])
            letters.append(match["mark"].strip("()"))

    # A text may begin with a letter of its own: only all marks in order are labels.
    expected = list(string.ascii_uppercase[: len(choices)])
    if letters != expected:
        return tuple(choices), ()
    return tuple(texts), tuple(letters)


def resolve_gold(
    answer: str | int | float,
    choices: Sequence[str],
    where: str,
    labels: Sequence[str] = (),
) -> str:
    """Return the text of the choice that an answer means; the answer as it is where it means none.

    Raises:
        UserError: it means several; the line names ``where``.
    """
    text = _normalize(str(answer))
    for choice, label in zip(choices, labels, strict=False):
        if text == _normalize(label):
            return choice.strip()

    meanings = _find_meanings(answer, choices)
    are_letters = list(labels) == list(string.ascii_uppercase[: len(labels)])
    if not are_letters:
        # A letter or a number that is no label means nothing.
        meanings = {reading: place for reading, place in meanings.items() if reading == "text"}
    if not meanings:
        return str(answer).strip()

    if len(set(meanings.values())) > 1:
        readings = []
        for reading, place in meanings.items():
            readings.append(f"{choices[place]!r} by its {reading}")
        raise UserError(
            f"{where}: the answer {answer!r} is ambiguous: {', '.join(readings)}; give the choice's text or letter"
        )

    # All readings mean one choice.
    place = next(iter(meanings.values()))
    return choices[place].strip()


def _find_meanings(
    answer: str | int | float,
    choices: Sequence[str],
) -> dict[str, int]:
    """Return the place of the choice for each reading that an answer has."""
    text = _normalize(str(answer))
    texts = [_normalize(choice) for choice in choices]
    meanings = {}

    # The texts that a choice may have to be meant.
    names = {text}
    if isinstance(answer, bool):
        names = {"true", "yes"} if answer else {"false", "no"}
    places = [place for place, choice in enumerate(texts) if choice in names]
    # Two choices with one text are told apart by the letter only.
    if len(places) == 1:
        meanings["text"] = places[0]

    letter = re.compile("[a-z]")
    are_letters = all(map(letter.fullmatch, texts))
    # Choices that are letters are meant by their texts alone.
    if letter.fullmatch(text) and not are_letters:
        meanings["letter"] = ord(text) - ord("a")
    elif type(answer) is int:
        meanings["index"] = answer
    elif isinstance(answer, str) and re.fullmatch("[0-9]{1,2}", text):
        meanings["key"] = int(text) - 1

    # A letter or a number may lie beyond the choices, and means none then.
    on_offer = {}
    for reading, place in meanings.items():
        if 0 <= place < len(choices):
            on_offer[reading] = place
    return on_offer


def _normalize(text: str) -> str:
    bare = " ".join(text.split()).casefold()
    # "(B)" is as good as "B".
    match = re.fullmatch(r"\(([^()]*)\)", bare)
    return match[1].strip() if match else bare
