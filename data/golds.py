"""Which choice a benchmark's answer means: its text, its letter, its index or its key, by one rule.

The readings of an answer, each tried on its own:

- its text: the answer is the text of a choice, whatever the case, spaces and brackets around it;
- its letter: "B" is the second choice, unless all choices are single letters themselves;
- its index: a number in JSON (MMLU: 2) counts from 0;
- its key: digits in a text (ARC: "2") count from 1.

Readings that mean different choices make the answer ambiguous; then it is refused, and never guessed.
"""

import re
from collections.abc import Sequence

from data.files import UserError


def resolve_gold(answer: str | int | float, choices: Sequence[str], where: str) -> str:
    """Return the text of the choice that an answer means; the answer as it is where it means none.

    Raises:
        UserError: it means several; the line names ``where``.
    """
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

    places = [place for place, choice in enumerate(texts) if choice == text]
    # Two choices with one text are told apart by the letter only.
    if len(places) == 1:
        meanings["text"] = places[0]

    are_letters = all(re.fullmatch("[a-z]", choice) for choice in texts)
    if re.fullmatch("[a-z]", text) and not are_letters:
        meanings["letter"] = ord(text) - ord("a")
    if isinstance(answer, int):
        meanings["index"] = answer
    elif isinstance(answer, str) and re.fullmatch(r"[0-9]{1,2}", text):
        meanings["key"] = int(text) - 1
    return {reading: place for reading, place in meanings.items() if 0 <= place < len(choices)}


def _normalize(text: str) -> str:
    bare = " ".join(text.split()).casefold()
    match = re.fullmatch(r"\(([^()]*)\)", bare)
    return match[1].strip() if match else bare
