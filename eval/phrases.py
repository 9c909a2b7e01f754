"""Sentences and what may stand around an answer in them: lead-ins, reasons, asides. Grammar: docs/grading.md."""

import re

# What may stand before an answer, again and again: "So I think that it is 5".
_LEAD_IN = re.compile(
    r"(?:(?:so|hence|thus|therefore|then|finally|okay|well|and so|overall|in conclusion|in total|in all)\b,?"
    r"|(?:i (?:think|believe|say|choose|conclude)|we (?:get|have|find|know|(?:can )?conclude)|this (?:means|gives))"
    r"\b(?: that)?:?"
    r"|(?:that|there (?:are|is|were|was)|it is|it's|it was|it must be|this is|that is|equal to|equals|exactly|simply"
    r"|just|definitely|clearly|probably|approximately|about|roughly|around|only|indeed|still|now)\b"
    r"|(?:the|my|our)? ?(?:(?:final|correct|right|best|simplified) )?(?:answer|result|solution|total|option|choice)"
    r"(?: is|:|=)(?: that| therefore| thus| then|:)?"
    r"|approx\.?(?=\s)|=|:|,|->|→|⇒)\s*",
    re.IGNORECASE,
)

_BECAUSE = (
    r"(?:because|since|given that|due to|for the reason"
    r"|as (?=it|the|we|they|he|she|there|this|that|both|all|each|every))"
)
_REASON = re.compile(rf"\s*(?:[,;:(—-]\s*)?(?<![\w-]){_BECAUSE}\b.*", re.IGNORECASE | re.DOTALL)
_CLAUSE = re.compile(r",\s*(?:(?:which|where|as)\b|i\.e\.).*", re.IGNORECASE | re.DOTALL)
_BRACKET = re.compile(rf"\s*\((?:=|i\.e\.|that is|{_BECAUSE}|which|where|by)[^()]*\)", re.IGNORECASE)
# Quadratic in a phrase, which is short (MAX_SENTENCE in eval/extract.py).
_WORKING = re.compile(r"\s\([^()\d]*\d[^()]*[-+*/×÷=][^()]*\d[^()\d]*\)[\s.]*$")
_NOT_BUT = re.compile(
    r"(?:(?:the answer|it|that) )?(?:not|isn't|is not|cannot be) (?P<denied>.+?)"
    r"(?:,? but (?:rather )?|[,;] (?:it is|it's|rather) )(?P<stated>.+)",
    re.IGNORECASE | re.DOTALL,
)
_AND_NOT = re.compile(
    r"(?P<stated>.+?),? (?:and )?(?:not|rather than|instead of) (?P<denied>.+)", re.IGNORECASE | re.DOTALL
)

_ASIDE = re.compile(
    r",?\s+(?:i (?:think|believe|guess|am sure)|no doubt|without (?:a )?doubt|of course|for sure|indeed|exactly|"
    r"as (?:required|desired|asked|expected)|qed|then)",
    re.IGNORECASE,
)

_FALSE = r"\b(?:false|untrue|wrong|incorrect|impossible|unlikely) (?:that|to say)\b"

# What denies all that follows: "it is false that", but not "as the premise is false".
_DENIAL = re.compile(
    rf"{_FALSE}"
    r"|\b(?:(?:den(?:y|ies|ied)|doubts?|disagrees?) that|fail(?:s|ed)? to be|anything but|far from|hardly|barely)\b",
    re.IGNORECASE,
)

# What a second guess begins with.
_HEDGE = re.compile(
    r"[\s(\[]*[,;.]?[\s(\[]*(?:(?:but|and)\s+)?"
    r"(?:or|vs|versus|maybe|perhaps|possibly|alternatively|otherwise|might)\b|\s*[/|](?=[^\S\n]*[^\s|])"
    r"|[\s.]*(?:however|but|though|although)\b[^.\n]{0,40}\b(?:could|might|may|maybe|possibly|perhaps)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"(?:\b(?:or|vs|versus|either)|(?:\b(?:not|never|cannot)|n['’]t)(?:\s+be)?)\s*[\s$*(\\\[]*$", re.IGNORECASE
)

# What denies the words right after it, or makes another value of them: "I don't think", "twice".
_DENYING = (
    r"(?:(?:\b(?:not|never|nobody|no one)|n['’]t)(?: (?:would|can|could|really|ever))?"
    r" (?:think|believe|say|said|claim|mean)(?:s|ing)?"
    r"|(?:\bnot|n['’]t) (?:the case|true|correct|right|clear|sure|certain|likely)"
    # As a verb: "no doubt" denies nothing.
    rf"|{_FALSE}|\b(?:den(?:y|ies|ied)|(?:i|we|you|they|to|would) (?:(?!no\b)\w+ )?doubt|doubts)"
    # "7 is wrong the answer is 8" denies the seven.
    r"|\b(?:not|(?<!is )(?<!was )(?:wrong|incorrect)|twice|thrice|(?<!in )half|double|triple|times|plus|minus|than"
    r"|(?:negative|inverse|reciprocal|opposite|square|cube|root|half|third|quarter) of))"
)
_THE = r"(?: that| if)?\s+(?:(?:the|an?|our|my|your)\s+)?(?:(?:final|correct|right|best)\s+)?"
# Before "answer is", and before a box: "twice the answer is", but not "twice" alone, which may be a line to fill.
_SUPPOSED = re.compile(rf"(?:{_DENYING}|\b(?:whether|if|suppos(?:e|ing)|assum(?:e|ing))){_THE}$", re.IGNORECASE)
_DENIED_BOX = re.compile(
    rf"{_DENYING}{_THE}(?:it|this|that|answer|result|value|number)(?: is| was|:)[\s$*(\\\[]*$", re.IGNORECASE
)
# Behind an answer: "12? No.", "12 is not the answer", "12 is wrong".
_BEHIND = r"[\s$*)\]}\\\"']*"
_TAKEN_BACK = re.compile(
    _BEHIND + r"(?:\?[\s*]*(?:no|wrong|incorrect)\s*(?:[.,;:!]|$)"
    r"|(?:is|was)(?:n['’]t| not) the (?:(?:final|correct|right) )?answer\b)",
    re.IGNORECASE,
)
_CALLED_WRONG = re.compile(
    _BEHIND + r"(?:is|was)(?: (?:wrong|incorrect)|(?:n['’]t| not) (?:correct|right))\b", re.IGNORECASE
)

# Full stops that end no sentence: "i.e.", "St. Louis".
_ABBREVIATED = r"(?<!\bi\.e)(?<!\be\.g)(?<!\bapprox)(?<!\bMrs)(?<!\b[SM]t)(?<!\b[MD]r)(?<!\bMs)"

_SENTENCE_END = re.compile(_ABBREVIATED + r"(?:[.?]|(?<!\d)!)['\")\]*$}_]*(?=\s|$)|\n")
_FIRST_END = re.compile(_ABBREVIATED + r"(?:[.?]|(?<!\d)!)[*_'\")\]$]*(?=\s)|\n")
_SO = re.compile(r"(?:^|[,;:]?\s)(?:so|hence|thus|therefore)\b[,:]?\s+", re.IGNORECASE)


def find_sentence_end(text: str) -> int:
    """Return where the first sentence or line of a text ends; -1 where it is unfinished."""
    match = _FIRST_END.search(text)
    return match.start() if match else -1


def split_sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text that hold something."""
    sentences = map(str.strip, _SENTENCE_END.split(text))
    return [sentence for sentence in sentences if sentence]


def begins_with_hedge(text: str) -> bool:
    """Whether a text that follows an answer opens a second guess."""
    return _HEDGE.match(text) is not None


def ends_open(text: str) -> bool:
    """Whether a text that precedes an answer denies it or makes it one of several."""
    # Only what stands right before the answer.
    return _OPEN.search(text[-40:]) is not None


def is_supposed(text: str) -> bool:
    """Whether words before "answer is" deny it, or only suppose it."""
    return _SUPPOSED.search(text) is not None


def denies_box(text: str) -> bool:
    """Whether words before a box deny it, or make another value of it."""
    return _DENIED_BOX.search(text) is not None


def takes_back(text: str) -> bool:
    """Whether a text that follows an answer denies it."""
    return _TAKEN_BACK.match(text) is not None


def calls_wrong(text: str) -> bool:
    """Whether a text that follows an answer says that it is wrong, which a choice may be asked to be."""
    return _CALLED_WRONG.match(text) is not None


def denies(text: str) -> bool:
    """Whether words before an answer deny what follows."""
    return _DENIAL.search(text) is not None


def strip_emphasis(phrase: str) -> str:
    """Take off bold, quotes and the signs of a formula around a phrase, but no brackets, which belong to points."""
    bare = re.sub(r"\*\*|__|`|\\[()\[\]]|\$(?!-?\.?\d)|(?<=\S)\$", "", phrase)
    bare = bare.strip(" \t\r\n*_")
    match = re.fullmatch(r"([\"'“‘])(.+)([\"'”’])\.?", bare)
    return match[2] if match else bare


def strip_lead_in(phrase: str) -> str:
    """Take off the known words before an answer."""
    place = 0
    # Several may stand in a row: "So the answer is: exactly 7".
    while match := _LEAD_IN.match(phrase, place):
        if match.end() == place:
            break
        place = match.end()
    return phrase[place:]


def strip_reason(phrase: str) -> str:
    """Take off a reason after an answer, and asides such as "I think"."""
    for pattern in (_REASON, _CLAUSE):
        match = pattern.search(phrase)
        # A reason that comes first may hold the answer.
        if match and match.start() > 0:
            phrase = phrase[: match.start()]
    phrase = _BRACKET.sub("", phrase)

    phrase = phrase.rstrip(" .,;:")
    # Only at the end; elsewhere the same words are part of the answer.
    for match in _ASIDE.finditer(phrase):
        if match.end() == len(phrase):
            return phrase[: match.start()].rstrip(" ,")
    return phrase


def strip_working(phrase: str) -> str:
    """Take off a bracket that works the answer out again: "12 (3 * 4)". In a box, it would be a product."""
    return _WORKING.sub("", phrase)


def split_conclusion(sentence: str) -> str:
    """Return what follows the last "so" of a sentence; the sentence where there is none."""
    matches = list(_SO.finditer(sentence))
    return sentence[matches[-1].end() :] if matches else sentence


def split_contrast(phrase: str) -> tuple[str, str] | None:
    """Read "not 6 but 7" and "7, not 6" as (7, 6); None where a phrase is neither."""
    match = _NOT_BUT.fullmatch(phrase)
    if match:
        return match["stated"], match["denied"]
    match = _AND_NOT.fullmatch(phrase)
    return (match["stated"], match["denied"]) if match else None
