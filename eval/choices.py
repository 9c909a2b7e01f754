"""Read a phrase as one of the choices: its letter, its text, or both where they agree. Grammar: docs/grading.md."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from eval.markup import clean_markup, normalize_answer
from eval.numbers import is_same_unit, parse_number, parse_quantity
from eval.phrases import denies

Choices = Sequence[str] | None

# For labels these are one value.
_SYNONYMS = {"true": "yes", "yes": "true", "false": "no", "no": "false"}
_SHORT = {"true": "t", "false": "f", "yes": "y", "no": "n"}
# Two labels of which one denies the other; a question may ask for them without naming them.
OPPOSITES = (
    {"true", "false"},
    {"yes", "no"},
    {"valid", "invalid"},
)

_NAME = r"(?i:(?:the )?(?:correct |right |best )?(?:option|choice|answer|letter) )?"

# A letter alone: "B", "(B)", "option b", "B)".
_ALONE = re.compile(rf"{_NAME}(?P<letter>\(\s?[A-Za-z]\s?\)|[A-Za-z])[).:,]?", re.ASCII)
# A letter with its text: "B. cat", "(B) cat", "B: cat", "B cat".
_WITH_TEXT = re.compile(
    rf"{_NAME}(?P<letter>\([A-Za-z]\)\s?[:.,-]?|[A-Za-z]\s?[).:,-]|[A-Z]\s)\s?(?P<text>.+)",
    re.ASCII,
)
_TEXT_FIRST = re.compile(r"(?P<text>.+?)\s?[,:]?\s?\((?:option |choice )?(?P<letter>[A-Za-z])\)", re.ASCII)

# "B is correct", but not "it is true" where that is a choice.
_PREDICATE = re.compile(
    r"(?P<subject>.+?) (?:is|must be) (?:also )?(?:the )?(?:correct|right|best)(?: (?:option|choice|answer|one))?"
    r"|(?P<other>.+?) is the (?:answer|solution|one)",
    re.IGNORECASE,
)
_SUBJECT = (
    r"(?:(?:it|this|that|which|he|she|the (?:statement|argument|claim|conclusion|sentence|answer|expression|"
    r"proposition|inference|value|result|hypothesis|person|correct (?:answer|option|choice))"
    r"(?: [\"'“][^\"”]{1,120}[\"'”])?)\s)"
)
_DENIAL = re.compile(
    rf"{_SUBJECT}?(?:(?:is|can|could|must|does|do)\s?(?:not|n't)(?: be)?|cannot be|not)\s(?P<rest>.+)", re.IGNORECASE
)
_COPULA = re.compile(
    rf"{_SUBJECT}(?:is|must be|would be|has to be|evaluates to)\s"
    r"(?:therefore |thus |then |also |just )?(?P<rest>.+)",
    re.IGNORECASE,
)


# "Yes, it is."
_SHORT_REPLY = re.compile(
    r"(?P<word>yes|no|true|false)\s?[,;:-]\s?(?P<rest>(?:it|he|she|they|this|that|there|the|we|you)\b.+)", re.IGNORECASE
)


@dataclass(frozen=True)
class _Offer:
    """What there is to choose from.

    ``texts`` holds each phrase that names a choice, normalized, and the place of that choice: -1 where it names two.
    """

    values: tuple[str, ...]
    texts: dict[str, int]
    numbers: dict[Fraction, tuple[int, str]]  # the place and the unit
    has_letters: bool  # whether a choice's letter stands for it
    opposites: dict[int, int]


@functools.lru_cache(10_000)
def _make_offer(kind: str, choices: tuple[str, ...]) -> _Offer:
    values = tuple(normalize_answer(choice) for choice in choices)
    # Choices may differ in brackets or case only: "(1,2)" and "[1,2]".
    if len(set(values)) < len(values):
        values = tuple(map(_squeeze, choices))
    texts: dict[str, int] = {}
    for place, value in enumerate(values):
        texts[value] = -1 if value in texts else place

    places = {value: place for value, place in texts.items() if place >= 0}
    synonyms = _SYNONYMS if kind == "label" else {}
    for value, name in [*synonyms.items(), *_SHORT.items()]:
        # A name that is the text of another choice means that one.
        if value in places:
            texts.setdefault(name, places[value])

    numbers = {}
    for place, quantity in enumerate(map(parse_quantity, choices)):
        if quantity is not None:
            numbers[quantity.value] = (place, quantity.unit)
    # Only where all choices are different numbers.
    if len(numbers) < len(choices):
        numbers = {}

    opposites = {}
    if set(values) in OPPOSITES and len(values) == 2:
        opposites = {0: 1, 1: 0}
    # Where the choices are letters, a letter is the text of one.
    has_letters = any(len(value) != 1 for value in values) or bool(numbers)
    return _Offer(values, texts, numbers, has_letters, opposites)


def _squeeze(text: str) -> str:
    return re.sub(r"[\s$]", "", text)


@functools.cache
def _make_usual_offer() -> _Offer:
    """Return what a label may be where a problem lists no choices."""
    labels = "yes no true false valid invalid unknown"
    texts = {label: place for place, label in enumerate(labels.split())}
    texts |= {"t": 0, "f": 1, "y": 0, "n": 1}
    # By the places: yes is true, and no is false.
    values = ("true", "false", "true", "false", "valid", "invalid", "unknown")
    opposites = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4}
    return _Offer(values, texts, numbers={}, has_letters=False, opposites=opposites)


def get_offer(kind: str, choices: Choices) -> _Offer | None:
    """Return what there is to choose from; None for free text and plain numbers."""
    if choices:
        return _make_offer(kind, tuple(choices))
    return _make_usual_offer() if kind == "label" else None


def parse_choice(answer: str, offer: _Offer) -> str | None:
    """Return the normalized text of the one choice that a whole phrase names, or None."""
    place = offer.texts.get(answer.lower())
    # A plain word; what is a letter as well as a text goes the long way.
    if place is None or len(answer) == 1:
        place = _find_place(answer, offer, depth=3)
    return None if place is None or place < 0 else offer.values[place]


def _find_place(answer: str, offer: _Offer, depth: int) -> int | None:
    # A clause within a clause, or a text that is no choice.
    if depth == 0 or len(answer) > 300:
        return None

    # Twice: a full stop may stand behind a bracket.
    cleaned = clean_markup(answer).strip(" .,;:!")
    cleaned = clean_markup(cleaned)
    by_text = _find_text(answer, cleaned, offer)
    letter = _ALONE.fullmatch(cleaned)
    by_letter = _find_letter(letter["letter"], offer) if letter else None
    # A letter that is the text of another choice means neither.
    if by_text is not None and by_letter not in (None, by_text):
        return None
    if by_text is not None:
        return by_text
    if by_letter is not None:
        return by_letter

    both = _find_letter_with_text(cleaned, offer)
    if both is not None:
        return both
    return _find_in_clause(cleaned, offer, depth)


def _find_text(answer: str, cleaned: str, offer: _Offer) -> int | None:
    for form in (normalize_answer(answer), normalize_answer(cleaned), _squeeze(answer)):
        if form in offer.texts:
            return offer.texts[form]

    # "5.0" for the choice "5".
    quantity = parse_quantity(cleaned) if offer.numbers else None
    if quantity is None or quantity.value not in offer.numbers:
        return None
    place, unit = offer.numbers[quantity.value]
    return place if is_same_unit(unit, quantity.unit) else None


def is_choice_text(text: str, offer: _Offer) -> bool:
    """Whether a text is that of a choice, and not a letter."""
    if len(normalize_answer(text)) == 1 and parse_number(text) is None:
        return False
    return _find_text(text, text, offer) is not None


def _find_letter(text: str, offer: _Offer) -> int | None:
    """Return the place that a letter with its marks stands for; where letters stand for none, it may be a text."""
    letter = "".join(filter(str.isalpha, text)).lower()
    if not offer.has_letters:
        return offer.texts.get(letter)
    place = ord(letter) - ord("a")
    return place if place < len(offer.values) else None


def list_letters(kind: str, choices: Sequence[str]) -> list[str]:
    """Return the letter of each choice; none where letters do not stand for the places."""
    offer = _make_offer(kind, tuple(choices))
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    return letters if offer.has_letters and letters[-1] <= "Z" else []


def _find_letter_with_text(cleaned: str, offer: _Offer) -> int | None:
    """Read "B. cat" and "cat (B)"."""
    if not offer.has_letters:
        return None

    for pattern in (_WITH_TEXT, _TEXT_FIRST):
        match = pattern.fullmatch(cleaned)
        if match is None:
            continue
        text = match["text"]
        place = _find_letter(match["letter"], offer)
        # Both must mean the same choice.
        if place is not None and place == _find_text(text, text, offer):
            return place
    return None


def _find_in_clause(cleaned: str, offer: _Offer, depth: int) -> int | None:
    """Read "B is correct", "the argument is not valid", "it is true"."""
    match = _PREDICATE.fullmatch(cleaned)
    if match:
        subject = match["subject"] or match["other"]
        place = _find_place(subject, offer, depth - 1)
        if place is not None:
            return place

    match = _SHORT_REPLY.fullmatch(cleaned)
    if match:
        # What follows must not name another choice.
        place = _find_text(match["word"], match["word"], offer)
        return place if find_mentions(match["rest"], offer) <= {place} else None

    match = _DENIAL.fullmatch(cleaned)
    if match:
        place = _find_place(match["rest"], offer, depth - 1)
        return None if place is None else offer.opposites.get(place)

    match = _COPULA.fullmatch(cleaned)
    if match:
        return _find_place(match["rest"], offer, depth - 1)
    return None


def count_mentions(text: str, offer: _Offer) -> int:
    """Return how many different choices a text names."""
    return len(find_mentions(text, offer))


def find_mentions(text: str, offer: _Offer) -> set[int]:
    """Return the places of the choices that a text names, by their texts or by letters in capitals or brackets."""
    cleaned = clean_markup(text)
    normalized = f" {normalize_answer(cleaned)} "
    places = set()
    for phrase, place in offer.texts.items():
        pattern = rf"(?<!\w){re.escape(phrase)}(?!\w)"
        if len(phrase) > 1 and re.search(pattern, normalized):
            places.add(place)

    for letter in re.findall(r"(?<![\w'])[A-Z](?![\w'])|\([a-z]\)", cleaned, re.ASCII):
        lettered = _find_letter(letter, offer)
        if lettered is not None:
            places.add(lettered)
    return places


_NEGATION = re.compile(
    r"\b(?:not|never|no|nor|neither|cannot|without|except|either|or|if|unless|maybe|perhaps|possibly|doubt)\b|n't\b"
    r"|\b(?:all|every\w*|any\w*) but\b|(?<!none )(?<!nothing )\bother than\b|\bnon $"
)
# Of the clause that ends the sentence: "nobody objects, so it is valid" denies nothing, nor does "nothing but the cat".
_NOBODY = re.compile(r"\b(?:nobody|none|nothing)\b(?! other than)(?:(?!\b(?:and|but)\b)[^,;:])*$", re.IGNORECASE)
# These are too often another part of speech to be looked for behind any words.
_ONLY_ALONE = {"yes", "no", "t", "f", "y", "n"}


_MARKED_LETTER = re.compile(r"(?<![\w'])[A-Z][.):,]|\([A-Za-z]\)", re.ASCII)


def find_choice(sentence: str, offer: _Offer) -> str | None:
    """Return the choice that ends a sentence which names no other and denies nothing: "she fears the grey wolf"."""
    normalized = normalize_answer(sentence)
    longest_first = sorted(offer.texts, key=len, reverse=True)

    for phrase in longest_first:
        if len(phrase) < 2 or phrase in _ONLY_ALONE:
            continue
        if not normalized.endswith(" " + phrase):
            continue
        before = normalized[: -len(phrase)]
        if _NEGATION.search(before) or denies(before) or count_mentions(before, offer):
            return None
        # Not in the choice itself, "none of them"; a normalized text has no commas.
        if _NOBODY.search(before) and _NOBODY.search(sentence):
            return None
        # Letters are capitals here, which a normalized text has not.
        if offer.has_letters and _MARKED_LETTER.search(clean_markup(sentence)[: -len(phrase)]):
            return None
        return phrase
    return None
