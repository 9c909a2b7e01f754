r"""Read a phrase as one number: sign, currency, magnitude, unit. The grammar stands in docs/grading.md.

An answer must be written out: "3 + 4" and "6/2" are questions, not answers, however true their values.
"""

import functools
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from eval.markup import clean_markup

# Bounds on the work.
MAX_NUMBER = 200  # characters of a number with all that goes with it
MAX_EXPONENT = 300  # a power of ten
MAX_UNIT = 8  # words
MAX_LEAD = 16  # words before the number in a sentence

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES = {word: number for number, word in enumerate(_TO_NINETEEN.split())}
_WORDS = _ONES | {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_CURRENCY_WORDS = {"us": "dollar", "usd": "dollar", "eur": "euro", "rs": "rupee"}

# Units by their abbreviations; other names are units by being nouns, so that only these may touch the number.
_ABBREVIATIONS = {
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "km": "kilometer",
    "in": "inch",
    "ft": "foot",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram",
    "kg": "kilogram",
    "lb": "pound",
    "lbs": "pound",
    "oz": "ounce",
    "ml": "milliliter",
    "cl": "centiliter",
    "l": "liter",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "mph": "mile per hour",
    "kmh": "kilometer per hour",
    "km/h": "kilometer per hour",
    "m/s": "meter per second",
    "am": "am",
    "pm": "pm",
    "usd": "dollar",
    "eur": "euro",
    "%": "percent",
    "°": "degree",
    "percent": "percent",
    "feet": "foot",
    "inches": "inch",
    "cents": "cent",
    "metre": "meter",
    "metres": "meter",
    "kilometre": "kilometer",
    "kilometres": "kilometer",
    "litre": "liter",
    "litres": "liter",
}
_KNOWN_UNITS = {
    *_ABBREVIATIONS.values(),
    *_CURRENCIES.values(),
    "pound",
    "euro",
    "day",
    "week",
    "month",
    "year",
    "cent",
}

# Words that no unit holds: they make "5 WORD" another number, a judgement, or a second clause.
_CLAUSE_WORDS = """
    or not no none never nor and but vs versus if unless is are was were be isn't aren't wasn't cannot can't could
    would should might may must maybe perhaps possibly probably either neither wrong incorrect false right true correct
    so therefore then thus hence which because since although however until question step
"""
_FACTOR_WORDS = """
    half halves quarter quarters third thirds fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths
    hundredth hundredths tens hundreds thousands millions billions trillions dozen dozens pi factorial squared cubed
    plus minus times divided multiplied over by point mod modulo choose sin cos tan log ln sqrt exp
"""
_NO_UNIT = {*_WORDS, *_SCALES, *_CLAUSE_WORDS.split(), *_FACTOR_WORDS.split()}
# These are part of a unit where another word follows: "51 third graders", "3 quarter notes".
_ORDINALS = {"half", "quarter", "third", "fourth", "fifth", "sixth", "eighth", "tenth", "right", "second"}

# Words before a number that deny it, leave it open, or are another one.
_OPEN_WORDS = """
    not never no none nobody nothing cannot without except neither nor or either maybe perhaps possibly if unless until
    anything hardly barely wrong incorrect between
"""
_NO_LEAD = {*_OPEN_WORDS.split(), *_SCALES, *_WORDS} - {"one"}

# Words right before a number that make another one of it, or no value: "half of the 7", "at least 7", "step 7".
_NEAR_WORDS = """
    far from besides unlike excluding least most than over under nearly almost beyond within above below up
    half twice double triple root square cube cubed squared factorial log sine cosine power sum product
    difference quotient third quarter fifth plus minus times negative inverse reciprocal
    step question problem example line note page chapter part case level equation option choice
"""
_NEAR = set(_NEAR_WORDS.split())
_VERBS = {"is", "are", "was", "were", "be", "equals", "makes", "gives", "leaves", "becomes", "costs", "has", "have"}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]?\d)|\d{1,3}(?: \d{3})+(?! ?\d)|\d+)"
_TOKEN = re.compile(
    rf"(?P<number>(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:e[-+]?\d+(?![\w.]))?)"
    r"|(?P<word>[^\W\d_]+(?:['-][^\W\d_]+|/[^\W\d_]+)*(?:(?<=s)'(?=\s[^\W\d_]))?)"
    r"|(?P<sign>[^\s])"
)


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Quantity:
    """A number with its unit ("" where there is none), and where it stands in the cleaned text."""

    value: Fraction
    unit: str
    written: str


class _Reader:
    """A place in the tokens of a phrase; each method reads one part of the grammar and moves on, or returns None."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = [
            Token(str(match.lastgroup), match.group(), match.start(), match.end())
            for match in _TOKEN.finditer(text.lower())
        ]
        self.place = 0

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def take(self, *texts: str) -> str | None:
        """Read one of some tokens."""
        token = self.peek()
        if token is None or token.text not in texts:
            return None
        self.place += 1
        return token.text

    def read_sign(self) -> int | None:
        sign = self.take("-", "+", "minus", "negative")
        return None if sign is None else 1 if sign == "+" else -1

    def read_currency(self) -> str:
        word = self.take(*_CURRENCY_WORDS) or ""
        if word == "rs":
            self.take(".")
        sign = self.take(*_CURRENCIES) or ""
        return _CURRENCIES.get(sign) or _CURRENCY_WORDS.get(word, "")

    def read_magnitude(self) -> Fraction | None:
        token = self.peek()
        if token is None:
            return None
        if token.kind == "word":
            return self._read_words()
        if token.kind != "number":
            return None

        value = self._read_power(self.take_number())
        if value is None:
            return None
        if self._at_fraction():
            return self._read_fraction(value, Fraction(0))

        # A mixed number: "2 1/2".
        self.place += 1
        mixed = value.denominator == 1 and token.end < self._start(-1) and self._at_fraction()
        self.place -= 1
        if mixed:
            return self._read_fraction(self.take_number() or Fraction(0), value)
        return value

    def take_number(self) -> Fraction | None:
        token = self.peek()
        if token is None or token.kind != "number":
            return None
        self.place += 1

        mantissa, _, exponent = token.text.replace(",", "").replace(" ", "").partition("e")
        return _raise_ten(Fraction(mantissa), exponent) if exponent else Fraction(mantissa)

    def _start(self, ahead: int) -> int:
        token = self.peek(ahead)
        return token.start if token else -1

    def _at_fraction(self) -> bool:
        slash = self.peek()
        below = self.peek(1)
        return slash is not None and slash.text == "/" and below is not None and below.text.isdigit()

    def _read_fraction(self, top: Fraction, whole: Fraction) -> Fraction | None:
        self.place += 1
        bottom = self.take_number() or Fraction(0)
        if bottom == 0 or top.denominator != 1:
            return None
        # A division that comes out even was left undone.
        if bottom > 1 and top % bottom == 0:
            return None
        return whole + top / bottom

    def _read_power(self, value: Fraction | None) -> Fraction | None:
        """Read "× 10^3" after a number."""
        times = self.peek()
        ten = self.peek(1)
        if value is None or times is None or ten is None or times.text not in ("×", "x", "*") or ten.text != "10":
            return value

        self.place += 2
        if self.take("^") is None and not (self.take("*") and self.take("*")):
            return None
        has_brace = self.take("{")
        sign = self.take("-", "+") or ""
        exponent = self.peek()
        if exponent is None or not exponent.text.isdigit():
            return None
        self.place += 1
        if has_brace and not self.take("}"):
            return None
        return _raise_ten(value, sign + exponent.text)

    def _read_words(self) -> Fraction | None:
        token = self.peek()
        assert token is not None
        tens, _, ones = token.text.partition("-")
        if tens not in _WORDS:
            return None
        self.place += 1

        value = _WORDS[tens]
        following = self.peek()
        is_tens = value >= 20
        if not ones and is_tens and following and 0 < _ONES.get(following.text, 0) < 10:
            ones = following.text
            self.place += 1
        if ones:
            if not is_tens or not 0 < _ONES.get(ones, 0) < 10:
                return None
            value += _ONES[ones]
        return Fraction(value)

    def read_scale(self) -> int:
        return _SCALES.get(self.take(*_SCALES) or "", 1)

    def read_unit(self) -> str | None:
        """Read the words of a unit; "" where there is none, None where what stands there is no unit."""
        words: list[str] = []
        while (token := self.peek()) is not None:
            previous = self.tokens[self.place - 1]
            if token.kind == "number":
                break

            if token.kind == "sign":
                if not self._read_unit_sign(words):
                    break
                continue

            glued = previous.end == token.start and previous.kind == "number"
            if not self._is_unit_word(token.text, glued, first=not words):
                return None
            words.append(token.text)
            self.place += 1

        return None if len(words) > MAX_UNIT else name_unit(words)

    def _read_unit_sign(self, words: list[str]) -> bool:
        token = self.peek()
        assert token is not None
        if token.text in "%°" or token.text in _CURRENCIES:
            words.append(token.text)
            self.place += 1
            return True

        # "m^2", "miles/hour", "p.m."
        following = self.peek(1)
        if token.text == "^" and words and following and following.text in ("2", "3"):
            words.append(token.text + following.text)
            self.place += 2
            return True
        is_link = token.text in "/." and words and following and following.kind == "word"
        if is_link and following and following.start == token.end:
            words.append(token.text)
            self.place += 1
            return True
        return False

    def _is_unit_word(self, word: str, glued: bool, first: bool) -> bool:
        if glued:
            return len(word) > 1 and word in _ABBREVIATIONS
        if word in _ORDINALS:
            following = self.peek(1)
            return following is not None and following.kind == "word" and following.text not in _NO_UNIT
        if word in _NO_UNIT:
            return False
        if len(word) == 1:
            return word in _ABBREVIATIONS or (word == "a" and not first)
        return True

    def read_quantity(self) -> Quantity | None:
        first = self.peek()
        sign = self.read_sign()
        currency = self.read_currency()
        inner = self.read_sign() if currency else None
        if sign and inner:
            return None

        value = self.read_magnitude()
        if value is None or first is None:
            return None
        value *= self.read_scale()

        unit = self.read_unit()
        if unit is None:
            return None
        end = self.tokens[self.place - 1].end
        return Quantity(value * (sign or inner or 1), unit or currency, self.text[first.start : end])

    def read_end(self) -> bool:
        # A unit in brackets: "7 (apples)".
        if self.take("(") and not (self.read_unit() and self.take(")")):
            return False
        while self.take(".", ",", ";", ":"):
            pass
        return self.place == len(self.tokens)


def _raise_ten(value: Fraction, exponent: str) -> Fraction | None:
    if len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(exponent)


def name_unit(words: list[str]) -> str:
    """Return the name under which units are compared: no abbreviation, no plural."""
    names = []
    for word in words:
        name = _ABBREVIATIONS.get(word) or _CURRENCIES.get(word, word)
        is_plural = name == word and len(word) > 3 and word.endswith("s") and not word.endswith("ss")
        names.append(word[:-1] if is_plural else name)
    return " ".join(names)


def is_same_unit(left: str, right: str) -> bool:
    """Whether two units do not contradict each other: one may be left out, and only known ones can differ."""
    if not left or not right or left == right:
        return True
    first, second = left.split(" ")[0], right.split(" ")[0]
    return first not in _KNOWN_UNITS or second not in _KNOWN_UNITS


_PLAIN = re.compile(r"-?\d+")


def parse_quantity(text: str) -> Quantity | None:
    r"""Return the number with its unit that a whole text is, or None where it is anything else."""
    if _PLAIN.fullmatch(text) and len(text) <= MAX_NUMBER:
        return Quantity(Fraction(int(text)), "", text)
    return _parse_quantity(text) if len(text) <= MAX_NUMBER else None


@functools.lru_cache(10_000)
def _parse_quantity(text: str) -> Quantity | None:
    working, last = split_working(clean_markup(text))
    if last is None:
        return None

    reader = _Reader(last)
    quantity = reader.read_quantity()
    if quantity is None or not reader.read_end():
        return None
    return quantity if is_working(working, quantity.value) else None


def parse_number(text: str) -> Fraction | None:
    r"""Return the exact value of a number that is written out, or None where the text is anything else.

    Read: signs, decimals, thousands separators (comma, space), a/b and mixed fractions, scientific notation, currency
    signs, number words to ninety-nine, "hundred" to "trillion" after a number, units after it ("108 apples"),
    ``\frac``, ``\text``. Of "a = b" the part after the last "=" counts, where what stands before it is a name or an
    expression. The percent sign is a unit: 50% is 50, not 1/2.
    An expression to be worked out ("3 + 4", "6/2", "5!", "2^3") is no number: copying the question earns nothing.
    """
    quantity = parse_quantity(text)
    return None if quantity is None else quantity.value


def split_working(text: str) -> tuple[list[str], str | None]:
    """Split a cleaned text at its "=": the sides before the last, and the last; None where it is an inequality."""
    if "=" not in text and "≈" not in text:
        return [], text
    if re.search("[<>!=]=|=>", text):
        return [], None
    *working, last = re.split("[=≈]", text)
    return working, last.strip()


_OPERATION = re.compile(r"\d[^a-z]*?[-+*/×÷^]|[-+*/×÷^]\s?\(?\s?[$\d]|\\frac|\bof\b", re.IGNORECASE)
_NO_WORKING = re.compile(
    r"[,;:?!]\s|[;|&<>]|\b(?:or|and|not|vs|versus|but|maybe|because|since|so|if|when)\b|n't\b", re.IGNORECASE
)
# A letter that is no word, no unit and no "x" for times: "3x + 2 = 5" is an equation to solve.
_VARIABLE = re.compile(r"(?<![A-Za-z\\])(?<!\d )(?!x\s?[$\d])[A-Za-z](?![A-Za-z])")
# What may stand before the first "=": one letter, or words, which may be added up.
_NAME = re.compile(
    r"(?:[A-Za-z]'?(?:_\{?\w{1,9}\}?)?(?:\(-?\w{1,5}\))?|(?:[$€£]?\s?[^\W\d_]{2,}[\s.'-]*(?:[-+*×/]\s)?)+|)"
)


def is_working(sides: list[str], value: Fraction) -> bool:
    """Whether the sides before the last "=" are a name or expressions that lead to one value, and no other guesses."""
    for number, side in enumerate(sides):
        if _NO_WORKING.search(side):
            return False
        is_name = number == 0 and _NAME.fullmatch(side.strip())
        is_operation = _OPERATION.search(side) and not _VARIABLE.search(side)
        if not is_name and not is_operation and parse_number(side) != value:
            return False
    return True


def find_quantity(sentence: str) -> Quantity | None:
    """Return the one number of a sentence: words without a number or a denial, the number, its unit, the end."""
    working, last = split_working(clean_markup(sentence))
    if last is None:
        return None

    reader = _Reader(last)
    reader.place = _skip_lead(reader.tokens)
    quantity = reader.read_quantity()
    if quantity is None or not reader.read_end():
        return None
    return quantity if is_working_sentence(working, quantity.value) else None


def is_working_sentence(sides: list[str], value: Fraction) -> bool:
    """As :func:`is_working`; the first side may begin with words."""
    if not sides:
        return True
    first = re.split(r"\d", sides[0], maxsplit=1)[0]
    if not _is_plain_lead(re.findall(r"[a-z']+", first.lower())):
        return False
    return is_working([sides[0][len(first) :].strip() or "x", *sides[1:]], value)


def _skip_lead(tokens: list[Token]) -> int:
    """Return where the number starts after the words before it; 0 where they are no plain words."""
    for place, token in enumerate(tokens[:MAX_LEAD]):
        if token.kind == "number" or token.text in "-+" or token.text in _CURRENCIES:
            words = [before.text for before in tokens[:place] if before.kind == "word"]
            return place if _is_plain_lead(words) else 0
        if token.kind == "sign" and token.text not in ",'\":":
            return 0
    return 0


def _is_plain_lead(words: list[str]) -> bool:
    """Whether the words before a number say nothing about it: "the sum is", but not "the sum of"."""
    if any(word in _NO_LEAD or word.endswith("n't") for word in words):
        return False
    return not any(word in _NEAR for word in itertools.takewhile(lambda word: word not in _VERBS, words[:-4:-1]))


def count_numbers(text: str) -> int:
    """Return how many numbers in digits a text holds."""
    tokens = _TOKEN.finditer(clean_markup(text[:MAX_NUMBER]))
    return sum(match.lastgroup == "number" for match in tokens)
