r"""Find the one answer in what a model wrote: the same rule for every stage and for the reward.

The form asked for is ``<think>`` steps ``</think>`` then ``\boxed{answer}``. The answer is

1. the last ``\boxed{}`` after the thought; boxes that disagree, or several guesses in one box, earn nothing;
2. else what follows the last "answer is" or "answer:", up to the end of the sentence or line
   (Kojima et al. 2022, arXiv 2205.11916, section 2.1, use the same trigger);
3. else the last candidate of the expected kind: a number, one of the choices, or a short last line.

The text is hostile: nothing in it is evaluated, and every pattern here runs in linear time or on a bounded piece.
An answer must be written out: "3 + 4" and "6/2" are questions, not answers, however true their values.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

EXTRACTION_VERSION = 2

# Bounds on the work, in characters.
MAX_NUMBER = 200
MAX_SENTENCE = 300
MAX_TAIL = 2000
MAX_LAST_LINE = 60

MAX_EXPONENT = 300  # a power of ten
MAX_BOXES = 20  # boxes that are written differently
FEW_WORDS = 4  # words beside a boxed answer that are no reasoning: "The answer is"

Value = Fraction | str | None
Choices = Sequence[str] | None


@dataclass(frozen=True)
class Extraction:
    """The answer as written (None where there is none), whether a box held it, and whether it was several guesses."""

    answer: str | None
    boxed: bool = False
    ambiguous: bool = False


class SplitText(NamedTuple):
    """A completion in its two parts; ``thought`` is None where there is no tag."""

    thought: str | None
    rest: str
    closed: bool


def split_thought(text: str) -> SplitText:
    """Split a completion into its thought and the rest.

    The thought runs from the first ``<think>`` to the first ``</think>`` after it. A ``</think>`` with no opening
    before it closes a thought that the prompt opened, so that thought starts with the text.

    Returns:
        (thought, rest, closed); ``closed`` is False where a thought is still open at the end, also a second one.
    """
    start = text.find("<think>")
    end = text.find("</think>")
    if start < 0 and end < 0:
        return SplitText(None, text, True)

    prompt_opened = end >= 0 and (start < 0 or end < start)
    if prompt_opened:
        thought = text[:end]
    else:
        inside = start + len("<think>")
        end = text.find("</think>", start)
        if end < 0:
            return SplitText(text[inside:], "", False)
        thought = text[inside:end]

    rest = text[end + len("</think>") :]
    return SplitText(thought, rest, rest.rfind("<think>") <= rest.rfind("</think>"))


def has_reasoning(text: str) -> bool:
    """Whether a completion reasons: in its thought, or after an empty thought, beside or within the box.

    A text without tags does not reason, whatever its length.
    """
    thought, rest, _ = split_thought(text)
    if thought is None:
        return False
    if thought.strip():
        return True

    beside = re.sub(r"\\boxed\s*\{[^{}]*\}", " ", rest)
    if len(beside.split()) > FEW_WORDS:
        return True

    return any(_shows_work(box) for box in find_boxes(rest))


def _shows_work(box: str) -> bool:
    return len(box.split()) > FEW_WORDS or re.search(r"\d[^=]{0,99}=", box) is not None


def find_boxes(text: str) -> list[str]:
    r"""Return what stands in each complete outermost ``\boxed{}``, in order; blank ones are left out."""
    boxes: list[tuple[int, str]] = []
    open_braces: list[int | None] = []  # where a box's content starts; None for a plain brace

    for match in re.finditer(r"\\boxed\s{0,4}\{|\\[\\{}]|[{}]", text):
        token = match.group()

        if token.startswith("\\boxed"):
            open_braces.append(match.end())
        elif token == "{":
            open_braces.append(None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is None:
                continue

            # Boxes within this one are part of its content.
            while boxes and boxes[-1][0] > start:
                boxes.pop()
            boxes.append((start, text[start : match.start()]))

    return [content for _, content in boxes if content.strip()]


_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: number for number, word in enumerate(_TO_NINETEEN.split())}
_WORDS |= {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# Words that make "5 WORD" another number, or no number, so they are no units.
_NOT_A_UNIT = (
    "or not half halves third thirds squared cubed factorial dozen dozens "
    "fourth fifth sixth eighth tenth hundredth fourths fifths sixths eighths tenths hundredths "
    "hundreds thousands millions billions trillions plus minus point pi x y z n i e k"
)
_NO_UNIT = {*_WORDS, *_SCALES, *_NOT_A_UNIT.split()}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_FRACTION = rf"(?:(?P<whole>\d+)\s)?(?P<top>{_DIGITS})\s?/\s?(?P<bottom>{_DIGITS})(?![\d/])"
_POWER = r"(?:e(?P<e>[-+]?\d+)|\s?[×x*]\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[-+]?\d+)\}?)"
_CURRENCY = r"(?:(?:us)?[$€£¥₹]|usd\b|eur\b|rs\b\.?)"
_ONES = "|".join(_TO_NINETEEN.split()[1:10])
_LONGEST_FIRST = "|".join(sorted(_WORDS, key=len, reverse=True))
_WORD = rf"(?:(?P<tens>{_TENS.replace(' ', '|')})[- ](?P<ones>{_ONES})|(?P<word>{_LONGEST_FIRST}))\b"
# Letters and light punctuation; "-" only before a letter, and "^2" or "^3" only after one ("m^2").
_UNIT = r"(?P<unit>(?:[^\W\d_]|[ %/.'°(),;:]|-(?=[^\W\d_])|(?<=[^\W\d_])\^[23](?!\d))*)"

# A whole text that is one number.
_NUMBER = re.compile(
    rf"(?P<sign>[-+]|minus |negative )?\s?{_CURRENCY}?\s?(?P<inner>[-+])?"
    rf"(?:{_FRACTION}|(?P<decimal>{_DECIMAL}){_POWER}?|{_WORD})"
    rf"(?:\s?(?P<scale>{'|'.join(_SCALES)})\b)?{_UNIT}",
)

# A number within a sentence: in digits ("one" is too often a pronoun); a minus belongs to it where no operand precedes.
_CANDIDATE = re.compile(
    rf"(?:(?<![\w)\]}}%.])[-+])?(?:[$€£¥₹]\s?)?(?:(?<=[$€£¥₹])-)?"
    rf"(?:(?:\d+ )?{_DIGITS}/{_DIGITS}(?![\d/])"
    rf"|{_DECIMAL}(?:e[-+]?\d+|\s?[×x*]\s?10\s?(?:\^|\*\*)\s?\{{?[-+]?\d+\}}?)?)"
    r"\s?%?",
    re.IGNORECASE,
)

# What makes the part before an "=" a list of guesses.
_GUESSES = re.compile(r"\b(?:or|and)\b|;|\d,\s", re.IGNORECASE)

# An ASCII text without one of these has no markup.
_MARKUP = re.compile(r"[\\~^$*_`{(]")


def clean_markup(text: str) -> str:
    r"""Drop the markup of an answer: LaTeX text and spacing commands, ``$``-delimiters, markdown, outer brackets.

    Digits of any script become ASCII, superscripts "^2", fractions "a/b". Currency signs other than ``\$`` and ``$``
    before a digit stay. Linear in the length of the text.
    """
    if text.isascii() and not _MARKUP.search(text):
        return text.strip(" \t\r\n")

    if not text.isascii():
        text = "".join(character if character.isascii() else _to_ascii(character) for character in text)
        text = re.sub("[\u2010-\u2014\u2212\ufe63\uff0d]", "-", text)  # dashes and minus signs

    text = _clean_latex(text)
    text = re.sub(r"\*\*(?!\s?[\d{+-])|__|`|\$(?![\d.-])", "", text)
    text = text.strip(" \t\r\n*_")

    while len(text) > 1 and text[0] + text[-1] in ("{}", "()"):
        inner = text[1:-1]
        if re.search(r"[(){}]", inner):
            break
        text = inner.strip()
    return text


def _clean_latex(text: str) -> str:
    # Thousands set apart by a narrow space, as in 1{,}234 and 1\,234.
    text = re.sub("(?<=\\d)(?:\\{,\\}|\\\\[,!]|,\\\\!|[\u00a0\u2009\u202f])(?=\\d{3}(?!\\d))", ",", text)

    text = re.sub(r"\\(?:left|right|displaystyle|!)(?![a-z])", "", text)
    text = re.sub("\\\\(?:[,;: ]|quad\\b)|[~\u00a0\u2009\u202f]", " ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)

    for _ in range(2):  # one within another
        text = re.sub(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed)\s?\{([^{}]{0,200})\}", r"\1", text)

    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    argument = r"\{\s?([^{}\s]{1,99})\s?\}"
    text = re.sub(rf"(-?)\s?\\frac\s?(?:{argument}\s?{argument}|(\d)(\d))", _flatten_fraction, text)

    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?|\\degree", "°", text)
    text = re.sub(r"\\(?:times|cdot)(?![a-z])", "×", text)
    text = re.sub(r"\\approx(?![a-z])|≈", "=", text)
    return text.replace("\\$", "$").replace("\\%", "%").replace("⁄", "/")


def _to_ascii(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)

    form = unicodedata.decomposition(character)
    if form.startswith("<super>") and character.isdigit():
        return f"^{unicodedata.digit(character)}"
    if form.startswith("<fraction>"):
        return f" {unicodedata.normalize('NFKC', character)}"
    return character


def _flatten_fraction(match: re.Match[str]) -> str:
    sign, top, bottom, left_digit, right_digit = match.groups()
    top = top or left_digit
    bottom = bottom or right_digit

    # Only plain digits become "a/b", set apart from a whole number before it; an expression stays LaTeX.
    if re.fullmatch(r"-?[\d,]+", top) and re.fullmatch(r"[\d,]+", bottom):
        return f" {sign}{top}/{bottom} "
    return f"{sign}\\frac{{{top}}}{{{bottom}}}"


def parse_number(text: str) -> Fraction | None:
    r"""Return the exact value of a number that is written out, or None where the text is anything else.

    Read: signs, decimals, thousands separators (comma, narrow space), a/b and mixed fractions, scientific notation,
    currency signs, number words to ninety-nine, "hundred" to "trillion" after a number, units after it ("108 apples"),
    ``\frac``, ``\text``. Of "a = b" the part after the last "=" counts, unless what stands before it is a list. The
    percent sign is a unit: 50% is 50, not 1/2.
    An expression to be worked out ("3 + 4", "6/2", "5!", "2^3") is no number: copying the question earns nothing.
    """
    if len(text) > MAX_NUMBER:
        return None

    text = clean_markup(text)
    before, _, last = text.rpartition("=")
    if _GUESSES.search(before) or re.search("[<>!]=", text):
        return None

    match = _NUMBER.fullmatch(last.strip().rstrip(".,;: ").lower())
    if not match or not _is_unit(match["unit"]):
        return None
    if match["sign"] and match["inner"]:
        return None

    amount = _read_amount(match)
    if amount is None:
        return None
    amount *= _SCALES.get(match["scale"], 1)

    negative = match["inner"] == "-" or match["sign"] in ("-", "minus ", "negative ")
    return -amount if negative else amount


def _is_unit(unit: str) -> bool:
    words = set(re.findall(r"[^\W\d_]+", unit))
    if words & _NO_UNIT:
        return False
    return all(character in "23" or not character.isnumeric() for character in unit)


def _read_amount(match: re.Match[str]) -> Fraction | None:
    """Return the value of a match of ``_NUMBER`` without its sign and scale."""
    if match["word"]:
        return Fraction(_WORDS[match["word"]])
    if match["tens"]:
        return Fraction(_WORDS[match["tens"]] + _WORDS[match["ones"]])

    if match["top"]:
        top = int(match["top"].replace(",", ""))
        bottom = int(match["bottom"].replace(",", ""))
        if bottom == 0:
            return None
        # A division that comes out even was left undone.
        if bottom > 1 and top % bottom == 0:
            return None
        return Fraction(top, bottom) + int(match["whole"] or 0)

    power = int(match["e"] or match["ten"] or 0)
    if abs(power) > MAX_EXPONENT:
        return None
    return Fraction(match["decimal"].replace(",", "")) * Fraction(10) ** power


@functools.lru_cache(10_000)  # the same few choices come back with every problem
def normalize_answer(text: str) -> str:
    """Return the form in which texts are compared: no case, articles, punctuation or markup; operators are kept."""
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", clean_markup(text).casefold())
    bare = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.+*/^=<>\\%-]|_", " ", text)
    bare = " ".join(bare.split())

    words = re.sub(r"\s?([-+*/^=<>])\s?", r"\1", bare).split()
    content = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(content or words) or text


_TRUTHS = {"yes": "true", "no": "false", "true": "true", "false": "false"}
_LABELS = ("yes", "no", "true", "false", "valid", "invalid", "unknown")


def _choice_values(kind: str, choices: Choices) -> dict[str, str]:
    """Return each phrase that names a choice, normalized, and the value it stands for; empty for free text."""
    phrases: list[str] = []
    if choices:
        phrases = [normalize_answer(choice) for choice in choices]
    elif kind == "label":
        phrases = list(_LABELS)

    values = {phrase: phrase for phrase in phrases}
    if kind == "label" and not _TRUTHS.keys().isdisjoint(phrases):
        values |= _TRUTHS
    return values


@dataclass(frozen=True)
class _Mention:
    """A choice named in a text; ``before`` is the text between it and the mention before it."""

    value: Value  # None where the choice is denied: "not true"
    written: str
    before: str


def _find_mentions(text: str, kind: str, choices: Choices) -> list[_Mention]:
    """Return the choices that a text names, in order."""
    values = _choice_values(kind, choices)
    if not values:
        return []

    if all(len(phrase) == 1 for phrase in values):
        # "A" the choice, not "a" or "A" the article.
        text = clean_markup(text)
        pattern = r"(?<![\w'])([A-Z0-9])(?![\w'])(?!(?<=A) [a-z])"
    else:
        text = normalize_answer(text)
        longest_first = sorted(values, key=len, reverse=True)
        pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)"

    mentions = []
    end = 0
    for match in re.finditer(pattern, text):
        value = values.get(match[1].casefold())
        if value is None:
            continue

        before = text[end : match.start()]
        denied = re.search(r"(?:\bnot|n[' ]t)\s*$", before[-8:])
        mentions.append(_Mention(None if denied else value, match[1], before))
        end = match.end()
    return mentions


# A choice's letter at the start of an answer: "(B)", "option B", "B. wolf".
_LETTER = re.compile(
    r"(?:(?:option|choice)\s)?(?:\(([a-z])\)|([a-z])[).:,]?$|([a-z])[).:](?=\s))", re.ASCII | re.IGNORECASE
)
# The letters of choices in a text, however many.
_LETTERS = re.compile(r"\(([a-z])\)|(?<!\w)([a-z])(?:[).:](?=\s|$)|$)", re.ASCII | re.IGNORECASE)


def _find_letters(text: str) -> set[str]:
    return {(match[1] or match[2]).lower() for match in _LETTERS.finditer(text)}


def parse_value(answer: str, kind: str, choices: Choices) -> Value:
    """Return what an answer stands for: a Fraction, or a normalized choice or text; None where it cannot be read.

    With choices that are not themselves single letters, the choice's letter stands for it, alone or with its own text
    ("B", "(B)", "B. wolf"); several letters, or a letter with another text ("(B) is wrong"), stand for nothing.
    For labels yes and true are one value, and so are no and false, where one of the four is a choice.
    """
    if kind == "number":
        return parse_number(answer)

    values = _choice_values(kind, choices)
    normalized = normalize_answer(answer)
    if not values:
        return normalized or None

    if choices and all(len(normalize_answer(choice)) != 1 for choice in choices):
        cleaned = clean_markup(answer)
        for choice in choices:
            # Before any letter: "C. elegans" is no letter C.
            if clean_markup(choice).casefold() == cleaned.casefold():
                return values[normalize_answer(choice)]

        letter = _LETTER.match(cleaned)
        if letter:
            return _parse_letter(answer, letter, kind, choices)

    if normalized in values:
        return values[normalized]

    named = {mention.value for mention in _find_mentions(answer, kind, choices)}
    if not named and not choices:
        return normalized or None  # a label outside the usual vocabulary
    return named.pop() if len(named) == 1 else None


def _parse_letter(answer: str, letter: re.Match[str], kind: str, choices: Sequence[str]) -> Value:
    """Return the choice that an answer means by the letter it begins with."""
    cleaned = letter.string
    index = ord((letter[1] or letter[2] or letter[3]).lower()) - ord("a")
    if index >= len(choices):
        return None

    chosen = _choice_values(kind, choices)[normalize_answer(choices[index])]
    rest = cleaned[letter.end() :].strip(" .:,)")
    # The choice's own text may hold a letter, too: "(B) vitamin A".
    if normalize_answer(rest) == chosen:
        return chosen

    if len(_find_letters(cleaned)) != 1:
        return None
    named = {mention.value for mention in _find_mentions(answer, kind, choices)}
    return chosen if not rest or named == {chosen} else None


# Between two candidates: what makes them a list of guesses.
_LISTING = re.compile(r"\bor\b|^\s*(?:[,;/|&]|and\b)?\s*(?:and|&)?\s*$", re.IGNORECASE)
# After a candidate: what makes it part of an expression to be worked out.
_OPERATOR = re.compile(r"\s?(?:[-+*/×÷^]\s?[-+\d({\\.$]|[!√]|\\[a-z]|x\s?\d)|[xyzn]\b", re.IGNORECASE)


def _names_several(text: str, kind: str, choices: Choices) -> bool:
    """Whether a text that has no one value names several candidates."""
    if kind == "number":
        return len(_CANDIDATE.findall(clean_markup(text[:MAX_SENTENCE]))) > 1
    if len(_find_mentions(text, kind, choices)) > 1:
        return True
    return choices is not None and len(_find_letters(clean_markup(text))) > 1


def _extract_from_boxes(boxes: list[str], kind: str, choices: Choices) -> Extraction:
    """Rule 1: all boxes must say the same."""
    answer = boxes[-1].strip()
    several = Extraction(answer, boxed=True, ambiguous=True)

    distinct = dict.fromkeys(boxes)
    if len(distinct) > MAX_BOXES:
        return several

    meanings = set()
    for box in distinct:
        value = parse_value(box, kind, choices)
        meanings.add(normalize_answer(box) if value is None else value)
    if len(meanings) > 1:
        return several

    unread = parse_value(answer, kind, choices) is None
    return Extraction(answer, boxed=True, ambiguous=unread and _names_several(answer, kind, choices))


def _extract_from_sentence(sentence: str, kind: str, choices: Choices) -> Extraction | None:
    """Return the answer in what follows "answer is"; None where no candidate of the kind is there."""
    sentence = clean_markup(sentence).strip(" .!?:;,")
    if kind == "number":
        return _extract_number(sentence)
    if not _choice_values(kind, choices):
        return Extraction(sentence) if sentence else None
    if parse_value(sentence, kind, choices) is not None:
        return Extraction(sentence)

    mentions = _find_mentions(sentence.rpartition("=")[2], kind, choices)
    if not mentions:
        return None

    first, *others = mentions
    if first.value is None:
        return Extraction(sentence, ambiguous=True)
    if others and others[0].value != first.value and _LISTING.search(others[0].before):
        return Extraction(sentence, ambiguous=True)
    return Extraction(first.written)


def _extract_number(sentence: str) -> Extraction | None:
    last = sentence.rpartition("=")[2].strip() or sentence
    if parse_number(last) is not None:
        return Extraction(last)

    candidates = list(_CANDIDATE.finditer(last))
    if not candidates:
        return None

    first, *others = candidates
    denied = re.search(r"(?:\bnot|n't)\s*$", last[: first.start()])
    listed = others and _LISTING.search(last[first.end() : others[0].start()])
    if denied or listed or _OPERATOR.match(last, first.end()):
        return Extraction(last, ambiguous=True)
    return Extraction(first.group().strip())


def _extract_from_phrase(text: str, finished: bool, kind: str, choices: Choices) -> Extraction | None:
    """Rule 2: what follows the last "answer is".

    Of an unfinished text only a sentence that ended counts: "The answer is 12" may have become 120.
    """
    phrases = list(re.finditer(r"\banswer[*_ ]{0,4}(?:is\b|:)", text, re.IGNORECASE))

    for phrase in reversed(phrases):
        window = text[phrase.end() : phrase.end() + 2 * MAX_SENTENCE]
        reaches_end = phrase.end() + len(window) == len(text)
        window = re.sub(r"^(?:[\s:*_]|\$\$|\\[\[(])+", "", window)

        end = re.search(r"[.!?]\**(?=\s)|\n", window)
        if end is None and reaches_end and not finished:
            continue

        sentence = window[: end.start() if end else MAX_SENTENCE]
        if sentence.strip():
            return _extract_from_sentence(sentence[:MAX_SENTENCE], kind, choices)
    return None


def _extract_from_tail(text: str, kind: str, choices: Choices) -> Extraction:
    """Rule 3: the last candidate, in the last part of a finished text."""
    tail = text[-MAX_TAIL:]
    if kind == "number":
        candidates = _CANDIDATE.findall(clean_markup(tail))
        return Extraction(candidates[-1].strip() if candidates else None)

    mentions = _find_mentions(tail, kind, choices)
    if mentions:
        return Extraction(mentions[-1].written, ambiguous=mentions[-1].value is None)

    lines = [line for line in tail.splitlines() if line.strip()]
    if not lines or len(lines[-1].strip()) > MAX_LAST_LINE:
        return Extraction(None)

    last = clean_markup(lines[-1]).strip(" .!?")
    if choices and parse_value(last, kind, choices) is None:
        return Extraction(None)
    return Extraction(last or None)


def extract(text: str, kind: str, choices: Choices = None, finished: bool = True) -> Extraction:
    """Find the one answer in the text after the thought (see :func:`split_thought`) by the three rules above.

    Never raises; linear in the length of the text.

    Args:
        text: what the model wrote after its thought.
        kind: "number", "label" or "text".
        choices: the choices of the problem, or None.
        finished: False where the text was truncated at the token limit: then rule 3 does not apply, and rule 2 only to
            sentences that ended.
    """
    boxes = find_boxes(text)
    if boxes:
        return _extract_from_boxes(boxes, kind, choices)

    extraction = _extract_from_phrase(text, finished, kind, choices)
    if extraction is not None:
        return extraction
    return _extract_from_tail(text, kind, choices) if finished else Extraction(None)
