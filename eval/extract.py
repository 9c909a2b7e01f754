r"""Find the one answer in what a model wrote: the same rule for every stage and for the reward.

The form asked for is ``<think>`` steps ``</think>`` then ``\boxed{answer}``. The candidate phrases are, in this order,

1. what stands in ``\boxed{}`` or ``\fbox{}`` after the thought; all boxes must say the same;
2. else what follows "answer is", "answer:", "<answer>" or "####", up to the end of the sentence, line or tag; all must
   say the same
   (Kojima et al. 2022, arXiv 2205.11916, section 2.1, use the same trigger);
3. else the last sentence, and for choices a first sentence that is nothing but a choice.

A candidate is an answer only if it parses whole as one value of the expected kind, after markup and known decoration
are taken off; anything left over makes it no answer. docs/grading.md holds the grammar of each kind.

The text is hostile: nothing in it is evaluated, and every pattern here runs in linear time or on a bounded piece.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from eval.choices import Choices, count_mentions, find_choice, get_offer, is_choice_text, parse_choice
from eval.equality import compare_answers
from eval.markup import clean_markup, find_box_spans, find_boxes, normalize_answer
from eval.numbers import count_numbers, find_quantity, parse_number
from eval.phrases import (
    begins_with_hedge,
    calls_wrong,
    denies_box,
    ends_open,
    find_sentence_end,
    is_supposed,
    split_conclusion,
    split_contrast,
    split_sentences,
    strip_emphasis,
    strip_lead_in,
    strip_reason,
    strip_working,
    takes_back,
)

EXTRACTION_VERSION = 7

# Bounds on the work, in characters.
MAX_SENTENCE = 300
MAX_TAIL = 2000
MAX_LAST_LINE = 60

MAX_BOXES = 8  # boxes that are written differently
MAX_MARKERS = 40  # places that say "the answer is"
FEW_WORDS = 4  # words beside a boxed answer that are no reasoning: "The answer is"

Value = Fraction | str | None


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
    # Both are -1 where there is no second thought.
    is_closed = rest.rfind("<think>") <= rest.rfind("</think>")
    return SplitText(thought, rest, is_closed)


def has_reasoning(text: str) -> bool:
    """Whether a completion reasons: in its thought, or after an empty thought, beside or within the box.

    A text without tags does not reason, whatever its length.
    """
    thought, rest, _ = split_thought(text)
    if thought is None:
        return False
    if thought.strip():
        return True

    beside = re.sub(r"\\(?:boxed|fbox)\s*\{[^{}]*\}", " ", rest)
    if len(beside.split()) > FEW_WORDS:
        return True

    return any(_shows_work(box) for box in find_boxes(rest))


def _shows_work(box: str) -> bool:
    if len(box.split()) > FEW_WORDS:
        return True
    # "3 + 4 = 7"
    return re.search(r"\d[^=]{0,99}=", box) is not None


def parse_value(answer: str, kind: str, choices: Choices) -> Value:
    """Return what an answer stands for: a Fraction, or a normalized choice or text; None where it cannot be read.

    With choices that are not themselves single letters, the choice's letter stands for it, alone or with its own text
    ("B", "(B)", "B. wolf"). For labels yes and true are one value, and so are no and false, where one of the four is a
    choice.
    """
    offer = get_offer(kind, choices)
    if offer is not None:
        value = parse_choice(answer, offer)
        if value is None and not choices:
            return normalize_answer(answer) or None  # a label outside the usual vocabulary
        return value
    if kind == "number":
        return parse_number(answer)
    return normalize_answer(answer) or None


class _Asked:
    """What kind of answer is looked for; ``is_free`` where any text can be it."""

    def __init__(self, kind: str, choices: Choices):
        self.kind = kind
        self.choices = choices
        self.offer = get_offer(kind, choices)
        self.is_free = kind == "text" and not choices

    def parses(self, phrase: str) -> bool:
        if not phrase:
            return False
        # Not by parse_value, to which a label of any wording is one.
        if self.offer is not None:
            return parse_choice(phrase, self.offer) is not None
        return parse_value(phrase, self.kind, self.choices) is not None

    def names_by_text(self, phrase: str) -> bool:
        """Whether a phrase is a choice by its text and not by its letter."""
        return self.offer is not None and is_choice_text(strip_reason(phrase), self.offer)

    def agree(self, one: str, other: str) -> bool:
        # Most are written alike, and a comparison may be work.
        return one == other or compare_answers(one, other, self.kind, self.choices) is True

    def count_named(self, text: str) -> int:
        """Return how many choices or numbers a text names."""
        if self.offer is not None:
            return count_mentions(text[:MAX_SENTENCE], self.offer)
        return count_numbers(text) if self.kind == "number" else 0


def _read_phrase(phrase: str, asked: _Asked, is_box: bool = False) -> str | None:
    """Return the part of a phrase that is an answer, where the rest is known decoration; None where it is not."""
    phrase = phrase.strip()
    # Only a box can hold more. It is no number and no choice, and not worth the work.
    if not asked.is_free and len(phrase) > MAX_SENTENCE:
        return None
    if not asked.is_free and asked.parses(phrase):
        tidy = _tidy(phrase)
        return phrase if is_box or not asked.parses(tidy) else tidy

    if asked.is_free and is_box:
        return phrase
    if asked.is_free:
        bare = strip_lead_in(strip_emphasis(phrase))
        # The reason may have stood outside the emphasis.
        return strip_emphasis(strip_reason(bare)) or None

    bare = strip_lead_in(clean_markup(phrase))
    if not is_box:
        bare = strip_working(bare)
    bare = strip_reason(bare).strip()
    if asked.parses(bare):
        return bare

    contrast = split_contrast(bare)
    if contrast and all(map(asked.parses, contrast)):
        return contrast[0]
    # A label that is none of the usual ones.
    is_open = asked.kind == "label" and not asked.choices
    return bare if is_open and bare and not asked.count_named(bare) else None


def _tidy(phrase: str) -> str:
    """Return a phrase without markup and end marks, as a person would quote it."""
    return clean_markup(phrase).lstrip("= ").rstrip(" .,;:")


def _read_sentence(sentence: str, asked: _Asked) -> str | None:
    """As :func:`_read_phrase`, of a sentence that may begin with words of its own: "so there are 12 bees"."""
    conclusion = split_conclusion(sentence)
    marker = _MARKER.search(conclusion)
    # What rule 2 passed over is no answer here either.
    if marker and is_supposed(conclusion[: marker.start()]):
        return None
    written = _read_phrase(conclusion, asked)
    if written is not None or asked.is_free:
        return written

    bare = strip_reason(clean_markup(conclusion))
    if asked.offer is not None:
        return find_choice(bare, asked.offer)
    quantity = find_quantity(bare)
    return quantity.written if quantity else None


# What a box holds where the instruction is repeated.
_PLACEHOLDER = re.compile(
    r"(?:the |your |final )*(?:answer|result|number|solution|value)(?: here)?|\.{2,}|…|\\l?dots|\?+|_+", re.IGNORECASE
)


def _extract_from_boxes(text: str, spans: list[tuple[int, int]], asked: _Asked) -> Extraction:
    """Rule 1: all boxes must say the same."""
    boxes = [text[start:end].strip() for start, end in spans]
    answer = boxes[-1]
    several = Extraction(answer, boxed=True, ambiguous=True)

    # In the order of the boxes, so that a long list of them costs nothing.
    distinct = list(dict.fromkeys(boxes))
    if len(distinct) > MAX_BOXES:
        return several
    if _is_hedged(text, spans, asked):
        return several

    written = [_read_phrase(box, asked, is_box=True) for box in distinct]
    if None in written:
        is_several = len(distinct) > 1 or asked.count_named(answer) > 1
        return several if is_several else Extraction(answer, boxed=True)

    last = str(written[distinct.index(answer)])
    if not all(asked.agree(str(other), last) for other in written):
        return several
    return Extraction(last, boxed=True)


def _is_hedged(text: str, spans: list[tuple[int, int]], asked: _Asked) -> bool:
    """Whether the last box is denied, or has a second guess beside it in its sentence."""
    start, end = spans[-1]
    opening = max(text.rfind("\\boxed", 0, start), text.rfind("\\fbox", 0, start))
    before = text[max(opening - MAX_SENTENCE, 0) : opening]
    # Of its own line: "not \boxed{7}".
    line = before.rpartition("\n")[2]
    if line and (ends_open(line) or denies_box(line[-60:])):
        return True

    after = re.sub(r"^[\s})\]$*\\]*", "", text[end + 1 : end + MAX_SENTENCE])
    if not after:
        return False
    # A question may ask for the choice that is wrong.
    if takes_back(after) or (asked.offer is None and calls_wrong(after)):
        return True
    paragraph = re.split(r"\n\s*\n", after)[0]
    if begins_with_hedge(paragraph):
        return True

    stop = find_sentence_end(after)
    rest = after[:stop] if stop >= 0 else after
    another = re.search(r"\b(?:or|vs|versus)\b\.?\s+(.+)", rest)
    if another and not asked.is_free:
        # "not 6 or 8" denies both, and "or 1/2" may say the same again.
        guess = another[1].rstrip(" .")
        is_denied = re.search(r"\bnot\b", rest[: another.start()])
        if asked.parses(guess) and not is_denied and not asked.agree(guess, text[start:end]):
            return True

    # "and 52", ", 52"
    match = re.match(r"[,;&]?\s*(?:and\s)?\s*", rest)
    second = rest[match.end() :].rstrip(" .") if match else ""
    # Without anything between, it goes on with the answer.
    is_apart = len(rest) > len(second)
    is_second = not asked.is_free and is_apart and asked.parses(second)
    return is_second and not asked.agree(second, text[start:end])


_MARKER = re.compile(
    r"\b(?:answer(?:\s(?:to|for|of)\s[^.\n:]{1,60}?)?|(?:correct|right|best|final)\s(?:option|choice))"
    r"[*_ ]{0,4}(?:is\b|:|=)|<answer>|^\s{0,3}####(?!#)",
    re.IGNORECASE | re.MULTILINE,
)
# "No, the answer is", but not "I have no doubt that the answer is".
_CORRECTION = re.compile(
    r"\b(?:no(?:\s-|\s?[,;:–—])|(?:wait|actually|sorry|correction|instead|rather|oops)\b)[^.!?\n]*$", re.IGNORECASE
)


# What is said of an answer that was given before.
_PRAISE = re.compile(r"(?:indeed )?(?:correct|right|verified|confirmed|valid|consistent)", re.IGNORECASE)


def _extract_from_markers(text: str, finished: bool, asked: _Asked) -> Extraction | None:
    """Rule 2: what follows "the answer is".

    Of an unfinished text only a sentence that ended counts: "The answer is 12" may have become 120.
    """
    values: list[str | None] = []
    phrase = ""
    last_following = ""

    # The last ones, where there are more: they say what the text ends with.
    matches = list(_MARKER.finditer(text))
    for match in matches[-MAX_MARKERS:]:
        if is_supposed(text[max(match.start() - 60, 0) : match.start()]):
            continue
        candidate = _cut_phrase(text, match.end(), finished, asked)
        if not candidate:
            continue
        following = _get_following(text, match.end(), candidate)
        # "The answer is 7? No."
        if takes_back(following):
            continue
        written = _read_phrase(candidate, asked)
        # "not 7, so 8"
        if written is None and re.match(r"neither\b|not\b", candidate, re.IGNORECASE):
            written = _read_phrase(split_conclusion(candidate), asked)
        # "I checked, and the answer is correct."
        if values and written is None and _PRAISE.fullmatch(candidate.rstrip(" .!*")):
            continue
        # "#### Step 1" is a heading.
        if written is None and match.group().endswith("#"):
            continue

        # What stood before a correction is taken back.
        start = match.start()
        before = text[max(start - 60, 0) : start]
        marker = before[-6:] + match[0]
        is_final = "final" in marker.lower()
        if is_final or _CORRECTION.search(before):
            values.clear()
        values.append(written)
        phrase = candidate
        last_following = following

    if not values:
        return None
    last = values[-1]
    if last is None:
        return Extraction(_tidy(phrase), ambiguous=asked.count_named(phrase) > 1)

    guesses = [value for value in dict.fromkeys(values) if value is not None]
    is_several = not all(asked.agree(guess, last) for guess in guesses)
    # "The answer is 7. Or maybe 8."
    following = re.sub(r"^(?:[*$.!?\s]|</answer>)*", " ", last_following)
    return Extraction(last, ambiguous=is_several or begins_with_hedge(following))


def _get_following(text: str, place: int, phrase: str) -> str:
    """Return what follows a phrase that stands behind a marker's place."""
    window = text[place : place + 4 * MAX_SENTENCE]
    _, found, following = window.partition(phrase)
    # "B. cat" may be read from "**B.** cat".
    if not found:
        following = window.partition(phrase.rpartition(". ")[2])[2]
    return following[:MAX_SENTENCE]


# A letter whose full stop may stand before its text: "B. cat".
_LETTER_END = re.compile(r"(?:^|\s)\W{0,3}[A-Za-z]\W{0,2}$", re.ASCII)


def _cut_phrase(
    text: str,
    place: int,
    finished: bool,
    asked: _Asked,
) -> str:
    """Return the sentence or line that follows a marker; "" where it is empty or unfinished."""
    window = text[place : place + 2 * MAX_SENTENCE]
    reaches_end = place + len(window) == len(text)
    window = re.sub(r"^(?:[\s:*_]|\$\$|\\[\[(])+", "", window)

    window, tag, _ = window.partition("</answer>")
    end = find_sentence_end(window)
    if end < 0 and reaches_end and not finished and not tag:
        return ""
    stop = min(end, MAX_SENTENCE) if end >= 0 else MAX_SENTENCE
    phrase = window[:stop].strip()

    if asked.choices and end >= 0 and _LETTER_END.fullmatch(phrase):
        line = window[end:].partition("\n")[0]
        following = split_sentences(line.lstrip(".*"))
        if following and asked.names_by_text(following[0]):
            return f"{phrase}. {following[0]}"
    return phrase


def _extract_from_sentences(text: str, asked: _Asked) -> Extraction:
    """Rule 3: the last sentence of a finished text."""
    tail = text[-MAX_TAIL:]
    if asked.is_free:
        lines = [line for line in tail.splitlines() if line.strip()]
        # A longer one is no answer, but a remark.
        if not lines or len(lines[-1].strip()) > MAX_LAST_LINE:
            return Extraction(None)
        phrase = strip_emphasis(lines[-1]).rstrip(" .!?")
        return Extraction(_read_phrase(phrase, asked))

    sentences = split_sentences(tail)
    if not sentences:
        return Extraction(None)
    last = sentences[-1][-MAX_SENTENCE:]
    before_last = sentences[-2][-MAX_SENTENCE:] if len(sentences) > 1 else ""
    # The full stop of "B. cat" ends no sentence.
    if asked.choices and _LETTER_END.search(before_last) and asked.names_by_text(last):
        last = f"{before_last}. {last}"

    # A question claims nothing: "Is it 7?"
    is_question = tail.rstrip(" \n*)\"'").endswith("?")
    written = None if is_question else _read_sentence(last, asked)
    first = _find_first_choice(text, sentences, asked)
    if written is None:
        if asked.count_named(last) > 1:
            return Extraction(last, ambiguous=True)
        return Extraction(clean_markup(first) if first else None)

    # "Yes. … So no."
    if first and not asked.agree(first, written):
        return Extraction(last, ambiguous=True)
    return Extraction(written)


def _find_first_choice(text: str, sentences: list[str], asked: _Asked) -> str | None:
    """Return a first sentence that is nothing but a choice: "Yes. There is no other way."."""
    first = sentences[0]
    # Of a longer text these are the sentences of its tail.
    is_alone = len(sentences) < 2 or len(text) > MAX_TAIL
    if is_alone or asked.kind == "number" or len(first) > MAX_LAST_LINE:
        return None
    # "It is a cat" may be one step of several.
    if re.search(r"\b(?:is|be|it)\b|n't", first, re.IGNORECASE):
        return None

    is_question = text.lstrip()[len(first) :].startswith("?")
    return first if asked.parses(first) and not is_question else None


# Base models go on with a question of their own.
_RUN_ON = re.compile(
    r"\n\s{0,3}[#*_ ]{0,5}(?:next )?(?:question|problem|q|human|user|instruction|exercise|input|task|example)"
    r"\s?\d{0,3}[*_ ]{0,3}:",
    re.IGNORECASE,
)


def _drop_run_on(text: str, asked: _Asked) -> str:
    """Cut a text where a next question begins after an answer."""
    first = _RUN_ON.search(text)
    if not first:
        return text
    # Nothing but an answer: "12".
    before = text[: first.start()].strip()
    if not asked.is_free and len(before) <= MAX_SENTENCE and asked.parses(before):
        return before

    # Behind the first answer in either form.
    ends = [end for _, end in _find_answer_boxes(text)[:1]]
    matches = list(_MARKER.finditer(text))
    for match in matches[:MAX_MARKERS]:
        phrase = _cut_phrase(text, match.end(), True, asked)
        if phrase and _read_phrase(phrase, asked) is not None:
            ends.append(match.end())
            break

    following = _RUN_ON.search(text, min(ends)) if ends else None
    return text[: following.start()] if following else text


def _find_answer_boxes(text: str) -> list[tuple[int, int]]:
    """Return where the content of each box is, those aside that repeat the instruction."""
    spans = []
    for start, end in find_box_spans(text):
        # A long box repeats no instruction, and is not worth the work.
        is_short = end - start < MAX_LAST_LINE
        content = clean_markup(text[start:end]) if is_short else ""
        if not _PLACEHOLDER.fullmatch(content.strip(" <>[]")):
            spans.append((start, end))
    return spans


def extract(
    text: str,
    kind: str,
    choices: Choices = None,
    finished: bool = True,
) -> Extraction:
    """Find the one answer in the text after the thought (see :func:`split_thought`) by the three rules above.

    Never raises; linear in the length of the text.

    Args:
        text: what the model wrote after its thought.
        kind: "number", "label" or "text".
        choices: the choices of the problem, or None.
        finished: False where the text was truncated at the token limit: then rule 3 does not apply, and rule 2 only to
            sentences that ended.
    """
    asked = _Asked(kind, choices)
    whole = text
    text = _drop_run_on(whole, asked)
    # What a next question follows is complete.
    finished = finished or len(text) < len(whole)

    spans = _find_answer_boxes(text)
    if spans:
        return _extract_from_boxes(text, spans, asked)

    extraction = _extract_from_markers(text, finished, asked)
    if extraction is not None:
        return extraction
    return _extract_from_sentences(text, asked) if finished else Extraction(None)
