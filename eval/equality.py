"""Whether two answers of a kind say the same; None where that cannot be decided within the bounds on the work."""

import re

from eval.choices import Choices, get_offer, parse_choice
from eval.equivalence import Verdict, compare_formulas
from eval.formulae import NotReadable, TooLarge, parse_formula
from eval.markup import clean_markup, normalize_answer
from eval.numbers import is_same_unit, parse_quantity

# A text without one of these is words, or a single name.
_FORMULA = re.compile(r"[^\w\s.,;:!?\"-]|\d|(?<=\S)\s?-\s|(?<!\w)-|\b[A-Za-z]-[A-Za-z]\b")
_PLAIN_SUM = re.compile(r"\d+(?:[.,]\d+)*(?:\s?[-+–]\s?\d+(?:[.,]\d+)*)+|\d+/\d+/\d+")


def compare_answers(
    gold: str,
    answer: str,
    kind: str,
    choices: Choices = None,
) -> Verdict:
    """Return whether an answer says the same as the gold one."""
    offer = get_offer(kind, choices)
    if offer is not None:
        value = parse_choice(gold, offer)
        if value is not None:
            return value == parse_choice(answer, offer)
        # A label that is none of the usual ones is compared as words.
        return not choices and _compare_words(gold, answer)

    if kind == "number":
        return _compare_numbers(gold, answer)
    return _compare_texts(gold, answer)


def _compare_numbers(gold: str, answer: str) -> bool:
    left = parse_quantity(gold)
    right = parse_quantity(answer)
    if left is None or right is None:
        return False
    return left.value == right.value and is_same_unit(left.unit, right.unit)


def _compare_texts(gold: str, answer: str) -> Verdict:
    """Compare free texts: as numbers, as formulas or as words, by what the gold one is."""
    are_equations = "=" in gold and "=" in answer
    left = parse_quantity(gold)
    if left is not None and not are_equations:
        right = parse_quantity(answer)
        if right is None:
            return False
        # Strictly: of a text, two units that are not the same differ, known or not.
        is_same = left.unit == right.unit or not left.unit or not right.unit
        return left.value == right.value and is_same

    # "2-1" is a score, or a question, and "02/01/2015" a date: another one with the same value is no answer to it.
    if _PLAIN_SUM.fullmatch(gold.strip("$ ")):
        return _tidy_sum(gold) == _tidy_sum(answer)
    if is_formula(gold):
        return _squeeze(gold) == _squeeze(answer) or compare_formulas(gold, answer)
    return _compare_words(gold, answer)


def _compare_words(gold: str, answer: str) -> bool:
    # 2:3 is not 2, 3, though words are compared without such marks.
    if _count_ratios(gold) != _count_ratios(answer):
        return False
    normalized = normalize_answer(gold)
    return bool(normalized) and normalized == normalize_answer(answer)


def _count_ratios(text: str) -> int:
    return len(re.findall(r"\d[\s{$]*:[\s}$]*(?=\d)", clean_markup(text)))


def _tidy_sum(text: str) -> str:
    return _squeeze(clean_markup(text)).rstrip(".").replace("–", "-")


def _squeeze(formula: str) -> str:
    return re.sub(r"[\s$]", "", formula)


def is_formula(text: str) -> bool:
    """Whether a gold text is a formula: it holds signs, and it can be read as one, or has commands for one."""
    if not _FORMULA.search(text):
        return False
    try:
        parse_formula(text)
    except TooLarge:
        # Two words in a row make it a text.
        return not re.search(r"[A-Za-z]{3,} [A-Za-z]{2,}", text)
    except NotReadable:
        return bool(re.search(r"\\(?!text|boxed|mathrm)[A-Za-z]{2,}", text))
    return True
