r"""Read a phrase as one number: sign, currency, magnitude, unit. The grammar stands in docs/grading.md.

An answer must be written out: "3 + 4" and "6/2" are questions, not answers, however true their values.
"""

import functools
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from eval.markup import clean_markup, read_pairs, read_words
from eval.phrases import denies

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
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}

_CURRENCIES = {
    "$": "dollar",
    "€": "euro",
    "£": "pound sterling",
    "¥": "yen",
    "₹": "rupee",
}
_CURRENCY_WORDS = read_pairs("us dollar  usd dollar  eur euro  rs rupee")

# Units by their abbreviations; other names are units by being nouns, so that only these may touch the number.
_ABBREVIATIONS = read_pairs("""
    mm millimeter  cm centimeter  dm decimeter  m meter  km kilometer  in inch  ft foot  yd yard  mi mile
    mg milligram  g gram  kg kilogram  lb pound  lbs pound  oz ounce  ml milliliter  cl centiliter  l liter
    s second  sec second  min minute  h hour  hr hour  hrs hour  am am  pm pm  usd dollar  eur euro
    % percent  ° degree  celsius celsius  percent percent  feet foot  inches inch  cents cent
    metre meter  metres meter  kilometre kilometer  kilometres kilometer  litre liter  litres liter
""") | {
    "mph": "mile per hour",
    "kmh": "kilometer per hour",
    "km/h": "kilometer per hour",
    "m/s": "meter per second",
    "°c": "degree celsius",
    "°f": "degree fahrenheit",
}
_OTHER_UNITS = read_words("pound euro day week month year cent")
_KNOWN_UNITS = {*_ABBREVIATIONS.values(), *_CURRENCIES.values(), *_OTHER_UNITS}

# Words that no unit holds: they make "5 WORD" another number, a judgement, or a second clause.
_CLAUSE_WORDS = read_words("""
    or not no none never nor and but vs versus if unless is are was were be isn't aren't wasn't cannot can't could
    would should might may must maybe perhaps possibly probably either neither wrong incorrect false right true correct
    so therefore then thus hence which because since although however until question step
""")
_PARTS = read_words("""
    half quarter third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth hundredth thousandth millionth
""")
# "fiftieth", "twenty-fifth"
_PART = re.compile(rf"(?:\w+-)?(?:\w+ieth|{'|'.join(_PARTS)})")
_FACTOR_WORDS = read_words("""
    halves tens hundreds thousands dozen dozens pi factorial squared cubed
    plus minus times divided multiplied over by point mod modulo choose sin cos tan log ln sqrt exp
""")
_NO_UNIT = {*_WORDS, *_SCALES, *_CLAUSE_WORDS, *_FACTOR_WORDS}
# These are part of a unit where another word follows: "51 third graders", "3 quarter notes".
_ORDINALS = read_words("right second doubled tripled halved")

# Words before a number that deny it, leave it open, or are another one.
_OPEN_WORDS = read_words("""
    not never no none nobody nothing cannot without except neither nor or either maybe perhaps possibly if unless until
    anything hardly barely wrong incorrect between whether suppose supposing assume assuming
""")
_NO_LEAD = {*_OPEN_WORDS, *_SCALES, *_WORDS} - {"one"}

# Words right before a number that make another one of it, or no value: "half of the 7", "at least 7", "step 7".
_NEAR_WORDS = read_words("""
    far from besides unlike excluding least most than over under nearly almost beyond within above below up
    half twice double triple root square cube cubed squared factorial log sine cosine power sum product
    difference quotient third quarter fifth plus minus times negative inverse reciprocal
    step question problem example line note page chapter part case level equation option choice
""")
_VERBS = read_words("is are was were be equals makes gives leaves becomes costs has have")

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,]?\d)|\d{1,3}(?:[ ]\d{3})+(?![ ]?\d)|\d+)"
_NUMBER = rf"(?:(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:e[-+]?\d+(?![\w.]))?)"
_WORD = r"(?:[^\W\d_]+(?:['-][^\W\d_]+|/[^\W\d_]+)*(?:(?<=s)'(?=\s[^\W\d_]))?)"
_WORD_END = r"(?!(?:['/-]?[^\W\d_]))"
_TOKEN = re.compile(rf"(?P<number>{_NUMBER})|(?P<word>{_WORD})|(?P<sign>\S)")

# A number without its unit.
_QUANTITY = re.compile(
    rf"""
    (?P<sign>[-+]|(?:minus|negative){_WORD_END})?\s*
    (?P<code>(?:{"|".join(_CURRENCY_WORDS)}){_WORD_END}(?:(?<=rs)\s*\.)?)?\s*
    (?P<currency>[{"".join(_CURRENCIES)}])?\s*
    (?P<inner_sign>[-+]|(?:minus|negative){_WORD_END})?\s*
    (?:
        (?P<number>{_NUMBER})
        # "× 10^3"
        (?:\s*[×x*]\s*10\s*(?:\^|\*\s*\*)\s*(?P<brace>\{{)?\s*(?P<ten_sign>[-+]?)\s*(?P<exponent>\d+)(?(brace)\s*\}}))?
        # "/2", or " 1/2" of a mixed number
        (?:(?:\s+(?P<top>{_NUMBER}))?\s*/\s*(?P<bottom>\d+))?
        |
        (?P<word>{"|".join(_WORDS)})(?:(?:-|\s+)(?P<ones>{"|".join(_ONES)}))?{_WORD_END}
    )
    (?:\s*(?P<scale>{"|".join(_SCALES)}){_WORD_END})?
    """,
    re.VERBOSE,
)
_POWER = r"\^\s*(?:[23]|\{\s*[23]\s*\})"
_UNIT_PART = re.compile(
    rf"\s*(?:(?P<word>{_WORD})|°\s?[cf]{_WORD_END}|[%°{''.join(_CURRENCIES)}]|(?P<link>{_POWER}|[/.](?=[^\W\d_])))"
)
_END = re.compile(r"[\s.,;:]*")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit ("" where there is none), and where it stands in the cleaned text."""

    value: Fraction
    unit: str
    written: str


def _read_quantity(text: str, place: int) -> Quantity | None:
    """Read the number that stands in a cleaned text from a place to its end; None where anything is left over."""
    lower = text.lower()
    match = _QUANTITY.match(lower, place)
    if match is None:
        return None

    value = _compute_value(match)
    code = (match["code"] or "").rstrip(" .")
    currency = _CURRENCIES.get(match["currency"]) or _CURRENCY_WORDS.get(code, "")
    # "-$5" and "$-5", but not "-$-5".
    is_signed_twice = match["inner_sign"] and (match["sign"] or not currency)
    if value is None or is_signed_twice:
        return None
    if (match["sign"] or match["inner_sign"]) in ("-", "minus", "negative"):
        value = -value

    unit, end = _read_unit(lower, match.end())
    if unit is None or not _is_end(lower, end):
        return None
    return Quantity(value, unit or currency, text[place:end])


def _compute_value(match: re.Match[str]) -> Fraction | None:
    """Return the value of what :data:`_QUANTITY` found, without its sign; None where it is no number written out."""
    scale = _SCALES.get(match["scale"], 1)
    if match["word"]:
        value = _WORDS[match["word"]]
        ones = _ONES.get(match["ones"])
        if ones is None:
            return Fraction(scale * value)
        # "twenty one", but not "two one" or "twenty zero".
        is_one_number = value >= 20 and 0 < ones < 10
        return Fraction(scale * (value + ones)) if is_one_number else None

    number = _parse_digits(match["number"])
    if number is not None and match["exponent"]:
        number = _raise_ten(number, match["ten_sign"] + match["exponent"])
    if number is None or not match["bottom"]:
        return number and number * scale

    # Of "1 2/3" the number is the whole, of "2/3" the top.
    whole = Fraction(0)
    top: Fraction | None = number
    if match["top"]:
        whole = number
        top = _parse_digits(match["top"])
    bottom = int(match["bottom"])
    if top is None or bottom == 0 or whole.denominator != 1 or top.denominator != 1:
        return None
    # A division that comes out even was left undone.
    if bottom > 1 and top % bottom == 0:
        return None
    return (whole + top / bottom) * scale


def _parse_digits(text: str) -> Fraction | None:
    mantissa, _, exponent = re.sub("[, ]", "", text).partition("e")
    return _raise_ten(Fraction(mantissa), exponent or "0")


def _raise_ten(value: Fraction, exponent: str) -> Fraction | None:
    # The length first: to read an exponent of many digits is work, too.
    if len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(exponent)


def _read_unit(text: str, place: int) -> tuple[str | None, int]:
    """Return the unit from a place on and where it ends; "" where there is none, None where the words are no unit."""
    words: list[str] = []
    while part := _UNIT_PART.match(text, place):
        # "m^2", "miles/hour"
        if part["link"] and not words:
            break
        if part["word"] and not _is_unit_word(text, part, is_first=not words):
            return None, place
        words.append(re.sub(r"[\s{}]", "", part[0]))
        place = part.end()

    # So many words are a clause.
    unit = name_unit(words) if len(words) <= MAX_UNIT else None
    return unit, place


def _is_unit_word(text: str, part: re.Match[str], is_first: bool) -> bool:
    word = part["word"]
    is_bare = part[0] == word
    # "5km", but not "5apples" or "3x".
    if is_bare and text[part.start() - 1].isdigit():
        return len(word) > 1 and word in _ABBREVIATIONS
    if word in _ORDINALS or _PART.fullmatch(word):
        following = _UNIT_PART.match(text, part.end())
        noun = following and following["word"]
        # "1 fifth of the cake", "2 to the fifth power"
        return noun not in (None, "of", "power") and not _changes_value(noun)
    # "7 doesn't work"
    if _changes_value(word) or word.endswith("n't"):
        return False
    # A single letter is a variable, unless it abbreviates a unit, or is the "a" of "dollars a day".
    return len(word) > 1 or word in _ABBREVIATIONS or (word == "a" and not is_first)


def _changes_value(word: str) -> bool:
    """Whether a word behind a number makes it another one, or begins a clause: "5 sixtieths", "5 quadrillion"."""
    is_part = _PART.fullmatch(word.removesuffix("s")) is not None
    return is_part or word in _NO_UNIT or word.endswith(("illion", "illions"))


def _is_end(text: str, place: int) -> bool:
    # A unit in brackets: "7 (apples)".
    bracket = re.compile(r"\s*\(").match(text, place)
    if bracket:
        unit, place = _read_unit(text, bracket.end())
        closing = re.compile(r"\s*\)").match(text, place)
        if not unit or closing is None:
            return False
        place = closing.end()
    return _END.fullmatch(text, place) is not None


def name_unit(words: list[str]) -> str:
    """Return the name under which units are compared: no abbreviation, no plural."""
    names = []
    for word in words:
        name = _ABBREVIATIONS.get(word) or _CURRENCIES.get(word, word)
        # A name that the tables know is singular.
        is_unknown = name == word and word not in _ABBREVIATIONS and len(word) > 3
        # "classes", but not "class".
        is_plural = is_unknown and word.endswith("s") and not word.endswith("ss")
        names.append(word[:-1] if is_plural else name)
    return " ".join(names)


def is_same_unit(left: str, right: str) -> bool:
    """Whether two units do not contradict each other: one may be left out, and only known ones can differ."""
    if not left or not right or left == right:
        return True
    # By the first word: "dollar per hour" is of dollars.
    heads = {unit.split(" ")[0] for unit in (left, right)}
    return not heads <= _KNOWN_UNITS


def parse_quantity(text: str) -> Quantity | None:
    r"""Return the number with its unit that a whole text is, or None where it is anything else.

    Read: signs, decimals, thousands separators (comma, space), a/b and mixed fractions, scientific notation, currency
    signs, number words to ninety-nine, "hundred" to "trillion" after a number, units after it ("108 apples"),
    ``\frac``, ``\text``. Of "a = b" the part after the last "=" counts, where what stands before it is a name or an
    expression. The percent sign is a unit: 50% is 50, not 1/2.
    An expression to be worked out ("3 + 4", "6/2", "5!", "2^3") is no number: copying the question earns nothing.
    """
    # Most texts are a plain number.
    if len(text) <= MAX_NUMBER and re.fullmatch(r"-?\d+", text):
        return Quantity(Fraction(text), "", text)
    return _parse_quantity(text) if len(text) <= MAX_NUMBER else None


@functools.lru_cache(10_000)
def _parse_quantity(text: str) -> Quantity | None:
    *working, last = _split_working(clean_markup(text))
    quantity = _read_quantity(last, 0)
    return quantity if quantity and _is_working(working, quantity.value) else None


def parse_number(text: str) -> Fraction | None:
    """Return the exact value of a whole text that :func:`parse_quantity` reads, or None."""
    quantity = parse_quantity(text)
    return quantity.value if quantity else None


def find_quantity(sentence: str) -> Quantity | None:
    """Return the one number of a sentence: words without a number or a denial, the number, its unit, the end."""
    *working, last = _split_working(clean_markup(sentence))
    quantity = _read_quantity(last, _skip_lead(last))
    if not quantity or not working:
        return quantity

    # The first side may begin with words.
    lead = re.split(r"\d", working[0], maxsplit=1)[0]
    lead_words = re.findall(r"[a-z']+", lead.lower())
    if not _is_plain_lead(lead_words):
        return None

    # Plain words alone are a name, as "x" is.
    first = working[0].removeprefix(lead).strip() or "x"
    return quantity if _is_working([first, *working[1:]], quantity.value) else None


def _split_working(text: str) -> list[str]:
    """Split a cleaned text at its "="; nothing but an empty text where it is an inequality."""
    if re.search("[<>!=]=|=>", text):
        return [""]
    *working, last = re.split("[=≈]", text)
    return [*working, last.strip()]


_OPERATION = re.compile(r"\d[^a-z]*?[-+*/×÷^]|[-+*/×÷^]\s?\(?\s?[$\d]|\\frac|\bof\b", re.IGNORECASE)
_NO_WORKING = re.compile(
    r"[,;:?!]\s|[;|&<>]|\b(?:or|and|not|vs|versus|but|maybe|because|since|so|if|when)\b|n't\b", re.IGNORECASE
)
# A letter that is no word, no unit and no "x" for times: "3x + 2 = 5" is an equation to solve.
_VARIABLE = re.compile(r"(?<![A-Za-z\\])(?<!\d )(?!x\s?[$\d])[A-Za-z](?![A-Za-z])")
# What may stand before the first "=": one letter, "\theta", or words, which may be added up.
_NAME = re.compile(
    r"(?:(?:(?!π)[^\W\d_]|\\[A-Za-z]{2,9}\s?)'?(?:_\{?\w{1,9}\}?)?(?:\(-?\w{1,5}\))?|(?:[$€£]?\s?[^\W\d_]{2,}+[\s.'-]*+(?:[+*×/]\s)?)+|)"
)


def _is_working(sides: list[str], value: Fraction) -> bool:
    """Whether the sides before the last "=" are a name or expressions that lead to one value, and no other guesses."""
    for number, side in enumerate(sides):
        if _NO_WORKING.search(side):
            return False
        is_name = number == 0 and _NAME.fullmatch(side.strip())
        is_operation = _OPERATION.search(side) and not _VARIABLE.search(side)
        if not is_name and not is_operation and parse_number(side) != value:
            return False
    return True


def _skip_lead(text: str) -> int:
    """Return where the number starts after the words before it; 0 where they are no plain words."""
    words: list[str] = []
    for token in itertools.islice(_TOKEN.finditer(text.lower()), MAX_LEAD):
        if token["number"] or token[0] in "-+" or token[0] in _CURRENCIES:
            return token.start() if _is_plain_lead(words) else 0
        if token["sign"] and token[0] not in ",'\":":
            return 0
        if token["word"]:
            words.append(token[0])
    return 0


def _is_plain_lead(words: list[str]) -> bool:
    """Whether the words before a number say nothing about it: "the sum is", but not "the sum of"."""
    if any(word in _NO_LEAD or word.endswith("n't") for word in words) or denies(" ".join(words)):
        return False
    # The last three, from the number back: a verb parts it from what was said before.
    for word in words[:-4:-1]:
        if word in _VERBS:
            return True
        if word in _NEAR_WORDS:
            return False
    return True


def count_numbers(text: str) -> int:
    """Return how many numbers in digits a text holds."""
    tokens = _TOKEN.finditer(clean_markup(text[:MAX_NUMBER]))
    return sum(bool(token["number"]) for token in tokens)
