r"""Take the markup off an answer: LaTeX text and spacing commands, ``$``, markdown, outer brackets and quotes.

What changes a value is never taken off: signs of logic, roots, primes, ``#``, ``±``. All of it is linear in the length.
"""

import functools
import re
import unicodedata

# An ASCII text without one of these has no markup.
_MARKUP = re.compile(r"[\\~^$*_`{(\"'‘“]")

MAX_REMEMBERED = 300  # characters of a text whose form is kept: the same few choices come back with every problem

_PAIRS = ("{}", "()", '""', "''", "“”", "‘’", "``")


def read_words(table: str) -> set[str]:
    """Return the words of a text."""
    return set(table.split())


def read_pairs(table: str) -> dict[str, str]:
    """Return the table that a text holds: a name, its value, the next name, its value."""
    words = table.split()
    # Every other word is a name.
    return dict(zip(words[::2], words[1::2], strict=True))


# Commands for the signs of logic.
LOGIC_SIGNS = read_pairs(r"""
    land ∧  wedge ∧  lor ∨  vee ∨  neg ¬  lnot ¬
    to →  rightarrow →  implies →  Rightarrow →  longrightarrow →  Longrightarrow →
    iff ↔  leftrightarrow ↔  Leftrightarrow ↔  longleftrightarrow ↔  Longleftrightarrow ↔
""")

# Commands for signs that stand in texts, too.
_SIGNS = LOGIC_SIGNS | read_pairs(r"""
    pm ±  mp ∓  times ×  cdot ×  degree °  approx ≈  pi π  infty ∞
    le ≤  leq ≤  ge ≥  geq ≥  ne ≠  neq ≠  lt <  gt >
""")


def find_boxes(text: str) -> list[str]:
    r"""Return what stands in each complete outermost ``\boxed{}`` or ``\fbox{}``, in order; blank ones are left out."""
    return [text[start:end] for start, end in find_box_spans(text)]


def find_box_spans(text: str) -> list[tuple[int, int]]:
    """Return where the content of each box starts and ends."""
    if "box" not in text:
        return []

    spans: list[tuple[int, int]] = []
    open_braces: list[int | None] = []  # where a box's content starts; None for a plain brace

    for match in re.finditer(r"\\(?:boxed|fbox)\s{0,4}\{|\\[\\{}]|[{}]", text):
        token = match.group()

        # A longer token opens a box; an escaped brace opens nothing.
        if len(token) > 2:
            open_braces.append(match.end())
        elif token == "{":
            open_braces.append(None)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start is None:
                continue

            # Boxes within this one are part of its content.
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.start()))

    return [(start, end) for start, end in spans if text[start:end].strip()]


def clean_markup(text: str) -> str:
    r"""Return a text without its markup.

    Digits and signs of full width become ASCII, superscripts "^2", fractions of plain numbers "a/b", commands for signs
    the sign. Currency signs stay: ``\$``, and ``$`` before a digit.
    """
    if text.isascii() and not _MARKUP.search(text):
        return text.strip(" \t\r\n")

    return _clean_short(text) if len(text) < MAX_REMEMBERED else _clean(text)


def _clean(text: str) -> str:
    text = to_plain_characters(text)
    text = _clean_latex(text)
    text = re.sub(r"\*\*(?!\s?[\d{+-])|__|`|\$(?!-?\.?\d)", "", text)
    text = re.sub(r"(?<=\d)\$", "", text)
    return strip_brackets(text.strip(" \t\r\n*_"))


_clean_short = functools.lru_cache(10_000)(_clean)


def to_plain_characters(text: str) -> str:
    """Return a text with digits of any script, dashes, and signs of full width in ASCII."""
    if text.isascii():
        return text

    text = "".join(map(_to_ascii, text))
    text = re.sub("[\u2010-\u2014\u2212\ufe63]", "-", text)  # dashes and minus signs
    return re.sub("[’′]", "'", text)


def strip_brackets(text: str) -> str:
    """Take off brackets and quotes around the whole of a text, however many."""
    while len(text) > 1 and text[0] + text[-1] in _PAIRS:
        inner = text[1:-1]
        # "(a)(b)" is no text in brackets.
        if re.search(r"[(){}]", inner) or text[0] in inner:
            break
        text = inner.strip()
    return text


def _clean_latex(text: str) -> str:
    text = drop_thousands_marks(text)
    text = re.sub(r"\\(?:left|right|displaystyle|!)(?![a-z])", "", text)
    text = re.sub("\\\\(?:[,;: ]|q?quad\\b)|[\u00a0\u2009\u202f]", " ", text)
    text = re.sub(r"(\\(?:text|mathrm)\s?\{)~", r"\1 ", text)  # "\mathrm{~cm}"
    text = re.sub(r"(?<=[\w}.)])~(?=[\w\\{$(])", " ", text)  # a tie; any other "~" is a negation
    text = text.replace("~", "¬")
    text = re.sub(r"\\[()\[\]]", " ", text)

    command = r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|mbox|boxed|fbox)\s?\{([^{}]{0,200})\}"
    for _ in range(2):  # one within another
        text = re.sub(rf"(?<=\d){command}", r" \1", text)
        text = re.sub(command, r"\1", text)

    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    argument = r"\{\s?([^{}\s]{1,99})\s?\}"
    text = re.sub(rf"(-?)\s?\\frac\s?(?:{argument}\s?{argument}|(\d)(\d))", _flatten_fraction, text)

    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?", "°", text)
    text = re.sub(r"\\([A-Za-z]+)\s?", _to_sign, text)

    # Signs that LaTeX needs a backslash for, and the slash of a fraction.
    for written, meant in (("\\$", "$"), ("\\%", "%"), ("⁄", "/")):
        text = text.replace(written, meant)
    return text


def drop_thousands_marks(text: str) -> str:
    r"""Write thousands that are set apart by a narrow space, as in ``1{,}234`` and ``1\,234``, with a comma."""
    space = r"\{,\}|,\s?\\!\s?|\\[,!; ]|[~\u00a0\u2009\u202f]"
    return re.sub(rf"(?<=\d)(?:{space})(?=\d{{3}}(?!\d))", ",", text)


def _to_sign(match: re.Match[str]) -> str:
    return _SIGNS.get(match[1], match[0])


def _to_ascii(character: str) -> str:
    if character.isascii():
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)

    form = unicodedata.decomposition(character)
    if form.startswith("<super>") and character.isdigit():
        return f"^{unicodedata.digit(character)}"
    if form.startswith("<fraction>"):
        return f" {unicodedata.normalize('NFKC', character)}"
    if form.startswith("<wide>"):
        return unicodedata.normalize("NFKC", character)
    return character


def _flatten_fraction(match: re.Match[str]) -> str:
    sign, top, bottom, left_digit, right_digit = match.groups()
    top = top or left_digit
    bottom = bottom or right_digit

    # Only plain digits become "a/b", set apart from a whole number before it; an expression stays LaTeX.
    if re.fullmatch(r"-?[\d,]+", top) and re.fullmatch(r"[\d,]+", bottom):
        return f" {sign}{top}/{bottom} "
    return f"{sign}\\frac{{{top}}}{{{bottom}}}"


def normalize_answer(text: str) -> str:
    """Return the form in which texts are compared: no case, articles, end marks or markup; signs are kept."""
    return _normalize_short(text) if len(text) < MAX_REMEMBERED else _normalize(text)


def _normalize(text: str) -> str:
    cleaned = clean_markup(text).casefold()
    # A hyphen between letters is a space; elsewhere it is a minus.
    cleaned = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", cleaned)
    cleaned = _ARTICLE.sub("", cleaned)

    # Punctuation, but no decimal point, no prime and no apostrophe within a word.
    bare = re.sub(r"(?<!\d)\.|\.(?!\d)|[,;:!?\"“”‘(){}\[\]_]", " ", cleaned)
    bare = re.sub(r"(?<!\w)'|(?<=[^\W\d_]{2})'(?!\w)", " ", bare)
    spaced = " ".join(bare.split())
    # Of punctuation alone, that is the text.
    return re.sub(r"\s?([-+*/^=<>¬∧∨→↔±×√])\s?", r"\1", spaced) or text


_normalize_short = functools.lru_cache(10_000)(_normalize)


# An "a" before no word is a name: "C A", "(A) wolf".
_ARTICLE = re.compile(r"(?<![\w'(-])(?:(?:the|an)\s+(?=\S)|a\s+(?=[^\W\d]\w))")
