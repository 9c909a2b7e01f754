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

EXTRACTION_VERSION = 2

# Bounds on the work, in characters; the last two: a power of ten, and boxes that are written differently.
MAX_NUMBER = 200
MAX_SENTENCE = 300
MAX_TAIL = 2000
MAX_LAST_LINE = 60
MAX_EXPONENT = 300
MAX_BOXES = 20
A_FEW = 4  # words beside a boxed answer that are no reasoning: "The answer is"

Value = Fraction | str | None


@dataclass(frozen=True)
class Extraction:
    """The answer as written (None where there is none), whether a box held it, and whether it was several guesses."""

    answer: str | None
    boxed: bool = False
    ambiguous: bool = False


def split_thought(text: str) -> tuple[str | None, str, bool]:
    """Part a completion into (thought, rest, closed).

    The thought runs from the first ``<think>`` to the first ``</think>`` after it. A ``</think>`` with no opening
    before it closes a thought that the prompt opened, so that thought starts with the text. Without any tag there is
    no thought: (None, text, True). ``closed`` is False where a thought is still open at the end, also a second one.
    """
    start, end = text.find("<think>"), text.find("</think>")
    if start < 0 and end < 0:
        return None, text, True
    if end >= 0 and (start < 0 or end < start):
        thought = text[:end]
    else:
        end = text.find("</think>", start)
        if end < 0:
            return text[start + len("<think>") :], "", False
        thought = text[start + len("<think>") : end]
    rest = text[end + len("</think>") :]
    return thought, rest, rest.rfind("<think>") <= rest.rfind("</think>")


def thinks(text: str) -> bool:
    """Whether a completion reasons: in a thought that is not blank, or after an empty one, in more than ``A_FEW`` words
    beside the boxed answer or within a box, or by an equation in a box. A text without tags does not think, whatever
    its length."""
    thought, rest, _ = split_thought(text)
    if thought is None:
        return False
    beside = re.sub(r"\\boxed\s*\{[^{}]*\}", " ", rest)
    worked = any(len(box.split()) > A_FEW or re.search(r"\d[^=]{0,99}=", box) for box in boxes(rest))
    return bool(thought.strip()) or len(beside.split()) > A_FEW or worked


def boxes(text: str) -> list[str]:
    r"""What stands in each complete outermost ``\boxed{}``, in order; blank ones are left out."""
    found: list[tuple[int, str]] = []
    stack: list[int | None] = []  # where each open brace's box content starts; None for a plain brace
    for match in re.finditer(r"\\boxed\s{0,4}\{|\\[\\{}]|[{}]", text):
        token = match.group()
        if token.startswith("\\boxed"):
            stack.append(match.end())
        elif token == "{":
            stack.append(None)
        elif token == "}" and stack and (start := stack.pop()) is not None:
            while found and found[-1][0] > start:  # boxes within this one
                found.pop()
            found.append((start, text[start : match.start()]))
    return [content for _, content in found if content.strip()]


_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {"zero": 0} | {w: n for n, w in enumerate((*_UNITS, "ten", *_TEENS), 1)}
_WORDS |= {w: 10 * n for n, w in enumerate(_TENS, 1)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words that make "5 WORD" another number, or no number, so they are no units.
_NO_UNIT = {*_WORDS, *_SCALES, "or", "not", "half", "halves", "third", "thirds", "squared", "cubed", "factorial"}
_NO_UNIT |= {"plus", "minus", "point", "pi", "x", "y", "z", "n", "i", "e", "k"}
_NO_UNIT |= {f"{word}s" for word in _SCALES} | {"dozen", "dozens"}
_NO_UNIT |= {f"{part}{s}" for part in ("fourth", "fifth", "sixth", "eighth", "tenth", "hundredth") for s in ("", "s")}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_POWER = r"(?:e(?P<e>[-+]?\d+)|\s?[×x*]\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[-+]?\d+)\}?)"
_CURRENCY = r"(?:(?:us)?[$€£¥₹]|usd\b|eur\b|rs\b\.?)"
_WORD = (
    rf"(?:(?P<tens>{'|'.join(_TENS[1:])})[- ](?P<ones>{'|'.join(_UNITS)})"
    rf"|(?P<word>{'|'.join(sorted(_WORDS, key=len, reverse=True))}))\b"
)
_NUMBER = re.compile(
    rf"(?P<sign>[-+]|minus |negative )?\s?{_CURRENCY}?\s?(?P<inner>[-+])?"
    rf"(?:(?:(?P<whole>\d+)\s)?(?P<top>{_DIGITS})\s?/\s?(?P<bottom>{_DIGITS})(?![\d/])"
    rf"|(?P<decimal>{_DECIMAL}){_POWER}?|{_WORD})"
    rf"(?:\s?(?P<scale>{'|'.join(_SCALES)})\b)?"
    r"(?P<unit>(?:[^\W\d_]|[ %/.'°(),;:]|-(?=[^\W\d_])|(?<=[^\W\d_])\^[23](?!\d))*)",
)
# A number within a sentence: in digits ("one" is too often a pronoun); a minus belongs to it where no operand precedes.
_CANDIDATE = re.compile(
    rf"(?:(?<![\w)\]}}%.])[-+])?(?:[$€£¥₹]\s?)?(?:(?<=[$€£¥₹])-)?"
    rf"(?:(?:\d+ )?{_DIGITS}/{_DIGITS}(?![\d/])"
    rf"|{_DECIMAL}(?:e[-+]?\d+|\s?[×x*]\s?10\s?(?:\^|\*\*)\s?\{{?[-+]?\d+\}}?)?)"
    r"\s?%?",
    re.IGNORECASE,
)


_LIST = re.compile(r"\b(?:or|and)\b|;|\d,\s", re.IGNORECASE)  # before an "=", what makes a list of guesses
_DRESS = re.compile(r"[\\~^$*_`{(]")  # without one of these an ASCII text has nothing to drop


def clean(text: str) -> str:
    r"""Drop the dress of an answer: LaTeX text and spacing commands, ``$``-delimiters, markdown, outer brackets.

    Digits of any script become ASCII, superscripts "^2", fractions "a/b".
    Currency signs other than ``\$`` and ``$`` before a digit stay. Linear in the length of the text.
    """
    if text.isascii() and not _DRESS.search(text):
        return text.strip(" \t\r\n")
    if not text.isascii():
        text = "".join(character if character.isascii() else _ascii(character) for character in text)
        text = re.sub("[\u2010-\u2014\u2212\ufe63\uff0d]", "-", text)  # dashes and minus signs
    text = re.sub("(?<=\\d)(?:\\{,\\}|\\\\[,!]|,\\\\!|[\u00a0\u2009\u202f])(?=\\d{3}(?!\\d))", ",", text)
    text = re.sub(r"\\(?:left|right|displaystyle|!)(?![a-z])", "", text)
    text = re.sub("\\\\(?:[,;: ]|quad\\b)|[~\u00a0\u2009\u202f]", " ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    for _ in range(2):  # one within another
        text = re.sub(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed)\s?\{([^{}]{0,200})\}", r"\1", text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    text = re.sub(r"(-?)\s?\\frac\s?(?:\{\s?([^{}\s]{1,99})\s?\}\s?\{\s?([^{}\s]{1,99})\s?\}|(\d)(\d))", _over, text)
    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?|\\degree", "°", text)
    text = re.sub(r"\\(?:times|cdot)(?![a-z])", "×", text)
    text = re.sub(r"\\approx(?![a-z])|≈", "=", text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("⁄", "/")
    text = re.sub(r"\*\*(?!\s?[\d{+-])|__|`|\$(?![\d.-])", "", text)
    text = text.strip(" \t\r\n*_")
    while len(text) > 1 and text[0] + text[-1] in ("{}", "()") and not re.search(r"[(){}]", text[1:-1]):
        text = text[1:-1].strip()
    return text


def _ascii(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    form = unicodedata.decomposition(character)
    if form.startswith("<super>") and character.isdigit():
        return f"^{unicodedata.digit(character)}"
    return f" {unicodedata.normalize('NFKC', character)}" if form.startswith("<fraction>") else character


def _over(match: re.Match[str]) -> str:
    sign, top, bottom, left, right = match.groups()
    top, bottom = top or left, bottom or right
    # Only plain digits become "a/b", set apart from a whole number before it; an expression stays LaTeX.
    if re.fullmatch(r"-?[\d,]+", top) and re.fullmatch(r"[\d,]+", bottom):
        return f" {sign}{top}/{bottom} "
    return f"{sign}\\frac{{{top}}}{{{bottom}}}"


def number(text: str) -> Fraction | None:
    r"""The exact value of a number that was written out, or None where the text is anything else.

    Read: signs, decimals, thousands separators (comma, narrow space), a/b and mixed fractions, scientific notation,
    currency signs, number words to ninety-nine, "hundred" to "trillion" after a number, units after it ("108 apples"),
    ``\frac``, ``\text``. Of "a = b" the part after the last "=" counts, unless what stands before it is a list. The
    percent sign is a unit: 50% is 50, not 1/2.
    An expression to be worked out ("3 + 4", "6/2", "5!", "2^3") is no number: copying the question earns nothing.
    """
    if len(text) > MAX_NUMBER:
        return None
    text = clean(text)
    before, _, last = text.rpartition("=")
    match = _NUMBER.fullmatch(last.strip().rstrip(".,;: ").lower())
    if not match or (match["sign"] and match["inner"]) or re.search("[<>!]=", text) or _LIST.search(before):
        return None
    unit = match["unit"]
    if set(re.findall(r"[^\W\d_]+", unit)) & _NO_UNIT or any(c.isnumeric() and c not in "23" for c in unit):
        return None
    if match["word"]:
        exact = Fraction(_WORDS[match["word"]])
    elif match["tens"]:
        exact = Fraction(_WORDS[match["tens"]] + _WORDS[match["ones"]])
    elif match["top"]:
        top, bottom = int(match["top"].replace(",", "")), int(match["bottom"].replace(",", ""))
        if bottom == 0 or (bottom > 1 and top % bottom == 0):
            return None  # no number, or a division left undone
        exact = Fraction(top, bottom) + int(match["whole"] or 0)
    else:
        power = int(match["e"] or match["ten"] or 0)
        if abs(power) > MAX_EXPONENT:
            return None
        exact = Fraction(match["decimal"].replace(",", "")) * Fraction(10) ** power
    exact *= _SCALES.get(match["scale"], 1)
    return -exact if "-" in (match["inner"], match["sign"]) or (match["sign"] or "").endswith(" ") else exact


@functools.lru_cache(10_000)  # the same few choices come back with every problem
def plain(text: str) -> str:
    """The form in which texts are compared: no case, articles, punctuation, or markup; operators are kept."""
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", clean(text).casefold())
    bare = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.+*/^=<>\\%-]|_", " ", text)
    words = re.sub(r"\s?([-+*/^=<>])\s?", r"\1", " ".join(bare.split())).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words) or text


_TRUTHS = {"yes": "true", "no": "false", "true": "true", "false": "false"}
_LABELS = ("yes", "no", "true", "false", "valid", "invalid", "unknown")


def _vocabulary(kind: str, choices: Sequence[str] | None) -> dict[str, str]:
    """Each phrase that names a choice, in plain form, and the value it stands for; empty for free text."""
    phrases = [plain(choice) for choice in choices] if choices else list(_LABELS) if kind == "label" else []
    values = {phrase: phrase for phrase in phrases}
    if kind == "label" and any(phrase in _TRUTHS for phrase in phrases):
        values |= _TRUTHS
    return values


def _mentions(text: str, kind: str, choices: Sequence[str] | None) -> list[tuple[Value, str, str]]:
    """The choices named in a text, in order: (value, as written, the text between it and the one before).

    The value of a choice that is denied ("not true") is None.
    """
    values = _vocabulary(kind, choices)
    if not values:
        return []
    if all(len(phrase) == 1 for phrase in values):  # "A" the choice, not "a" or "A" the article
        text, pattern = clean(text), r"(?<![\w'])([A-Z0-9])(?![\w'])(?!(?<=A) [a-z])"
    else:
        longest_first = sorted(values, key=len, reverse=True)
        text, pattern = plain(text), rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)"
    found: list[tuple[Value, str, str]] = []
    end = 0
    for match in re.finditer(pattern, text):
        if (value := values.get(match[1].casefold())) is not None:
            before = text[end : match.start()]
            denied = re.search(r"(?:\bnot|n[' ]t)\s*$", before[-8:])
            found.append((None if denied else value, match[1], before))
            end = match.end()
    return found


_LETTER = re.compile(
    r"(?:(?:option|choice)\s)?(?:\(([a-z])\)|([a-z])[).:,]?$|([a-z])[).:](?=\s))", re.ASCII | re.IGNORECASE
)
# The letters of choices in a text, however many.
_LETTERS = re.compile(r"\(([a-z])\)|(?<!\w)([a-z])(?:[).:](?=\s|$)|$)", re.ASCII | re.IGNORECASE)


def _lettered(text: str) -> set[str]:
    """The letters by which a text names choices."""
    return {(match[1] or match[2]).lower() for match in _LETTERS.finditer(text)}


def value(answer: str, kind: str, choices: Sequence[str] | None) -> Value:
    """What an answer stands for: a Fraction, or the plain form of a choice or text; None where it cannot be read.

    With choices that are not themselves single letters, the choice's letter stands for it, alone or with its own text
    ("B", "(B)", "B. wolf"); several letters, or a letter with another text ("(B) is wrong"), stand for nothing.
    For labels yes and true are one value, and so are no and false, where one of the four is a choice.
    """
    if kind == "number":
        return number(answer)
    values = _vocabulary(kind, choices)
    if not values:
        return plain(answer) or None
    whole, raw = plain(answer), clean(answer)
    letter = None
    if choices and not any(len(plain(choice)) == 1 for choice in choices):
        letter = _LETTER.match(raw)
        for choice in choices:
            if clean(choice).casefold() == raw.casefold():  # "C. elegans" is no letter C
                return values[plain(choice)]
    if letter is None and whole in values:
        return values[whole]
    named = {mention for mention, _, _ in _mentions(answer, kind, choices)}
    if choices and letter:
        index = ord((letter[1] or letter[2] or letter[3]).lower()) - ord("a")
        chosen = values[plain(choices[index])] if index < len(choices) else None
        rest = raw[letter.end() :].strip(" .:,)")
        if chosen is not None and plain(rest) == chosen:  # whose own text may hold a letter, too: "(B) vitamin A"
            return chosen
        alone = not rest
        return chosen if len(_lettered(raw)) == 1 and (alone or named == {chosen}) else None
    if not named and not choices:
        return whole or None  # a label outside the usual vocabulary
    return named.pop() if len(named) == 1 else None


# Between two candidates: what makes them a list of guesses.
_LISTING = re.compile(r"\bor\b|^\s*(?:[,;/|&]|and\b)?\s*(?:and|&)?\s*$", re.IGNORECASE)
# After a candidate: what makes it part of an expression to be worked out.
_OPERATOR = re.compile(r"\s?(?:[-+*/×÷^]\s?[-+\d({\\.$]|[!√]|\\[a-z]|x\s?\d)|[xyzn]\b", re.IGNORECASE)


def _several(text: str, kind: str, choices: Sequence[str] | None) -> bool:
    """Whether a text that has no one value names several candidates."""
    if kind == "number":
        return len(_CANDIDATE.findall(clean(text[:MAX_SENTENCE]))) > 1
    return len(_mentions(text, kind, choices)) > 1 or (choices is not None and len(_lettered(clean(text))) > 1)


def _from_boxes(contents: list[str], kind: str, choices: Sequence[str] | None) -> Extraction:
    answer = contents[-1].strip()
    distinct = dict.fromkeys(contents)
    if len(distinct) > MAX_BOXES:
        return Extraction(answer, True, True)
    first: Value = None
    for content in distinct:
        read = value(content, kind, choices)
        key = read if read is not None else plain(content)
        if first is not None and key != first:
            return Extraction(answer, True, True)
        first = key
    unread = value(answer, kind, choices) is None
    return Extraction(answer, True, unread and _several(answer, kind, choices))


def _from_sentence(sentence: str, kind: str, choices: Sequence[str] | None) -> Extraction | None:
    """The answer in what follows "answer is"; None where no candidate of the kind is there."""
    sentence = clean(sentence).strip(" .!?:;,")
    if kind == "number":
        last = sentence.rpartition("=")[2].strip() or sentence
        if number(last) is not None:
            return Extraction(last)
        matches = list(_CANDIDATE.finditer(last))
        if not matches:
            return None
        first = matches[0]
        denied = re.search(r"(?:\bnot|n't)\s*$", last[: first.start()])
        listed = len(matches) > 1 and _LISTING.search(last[first.end() : matches[1].start()])
        if denied or listed or _OPERATOR.match(last, first.end()):
            return Extraction(last, ambiguous=True)
        return Extraction(first.group().strip())
    if not _vocabulary(kind, choices):
        return Extraction(sentence) if sentence else None
    if value(sentence, kind, choices) is not None:
        return Extraction(sentence)
    mentions = _mentions(sentence.rpartition("=")[2], kind, choices)
    if not mentions:
        return None
    first_value, written, _ = mentions[0]
    if first_value is None or (len(mentions) > 1 and mentions[1][0] != first_value and _LISTING.search(mentions[1][2])):
        return Extraction(sentence, ambiguous=True)
    return Extraction(written)


def _from_phrase(text: str, finished: bool, kind: str, choices: Sequence[str] | None) -> Extraction | None:
    """Rule 2. Of an unfinished text only a sentence that ended counts: "The answer is 12" may have become 120."""
    for match in reversed(list(re.finditer(r"\banswer[*_ ]{0,4}(?:is\b|:)", text, re.IGNORECASE))):
        window = text[match.end() : match.end() + 2 * MAX_SENTENCE]
        whole = match.end() + len(window) == len(text)
        window = re.sub(r"^(?:[\s:*_]|\$\$|\\[\[(])+", "", window)
        end = re.search(r"[.!?]\**(?=\s)|\n", window)
        if end is None and whole and not finished:
            continue
        sentence = window[: end.start() if end else MAX_SENTENCE]
        if sentence.strip():
            return _from_sentence(sentence[:MAX_SENTENCE], kind, choices)
    return None


def _from_tail(text: str, kind: str, choices: Sequence[str] | None) -> Extraction:
    """Rule 3, on the last part of a finished text."""
    tail = text[-MAX_TAIL:]
    lines = [line for line in tail.splitlines() if line.strip()]
    if kind == "number":
        candidates = [match.group().strip() for match in _CANDIDATE.finditer(clean(tail))]
        return Extraction(candidates[-1] if candidates else None)
    if mentions := _mentions(tail, kind, choices):
        read, written, _ = mentions[-1]
        return Extraction(written, ambiguous=read is None)
    last = clean(lines[-1]).strip(" .!?") if lines and len(lines[-1].strip()) <= MAX_LAST_LINE else ""
    if choices and value(last, kind, choices) is None:
        last = ""
    return Extraction(last or None)


def extract(text: str, kind: str, choices: Sequence[str] | None = None, finished: bool = True) -> Extraction:
    """Find the one answer in the text after the thought (see :func:`split_thought`) by the three rules above.

    ``kind`` is "number", "label" or "text"; ``finished`` is False where the text was cut at the token limit: then
    rule 3 does not apply, and rule 2 only to sentences that ended. Never raises; linear in the length of the text.
    """
    if contents := boxes(text):
        return _from_boxes(contents, kind, choices)
    found = _from_phrase(text, finished, kind, choices)
    if found is None:
        return _from_tail(text, kind, choices) if finished else Extraction(None)
    return found
