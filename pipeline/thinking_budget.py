"""Bounds on the tokens of a thought, kept exactly by forcing tokens while a completion is decoded.

Source: s1, arXiv 2501.19393, sections 3 and 3.1. No hook of a library does this for each row of a batch.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.prompts import DIRECT, END_THINK, THINK, encode_text

BOX = "\\boxed{"

# What takes the place of the end of a thought that comes too soon.
CONTINUE = "Wait"


@dataclass(frozen=True)
class ThinkingLimits:
    """The fewest and the most tokens between the think tags; a maximum of 0 means a direct answer."""

    min_tokens: int = 0
    max_tokens: int | None = None


def count_thinking_tokens(tokenizer, ids: Sequence[int], closing: str = END_THINK) -> int:
    """Return how many tokens hold text between the opening tag and ``closing``, or the end where that is missing or "".

    Only whole decoded pieces are looked at, never offsets: a token may end in the middle of a character, and may hold
    the end of one tag and the start of another.
    """
    opened = _count_until(tokenizer, ids, THINK)
    if opened > len(ids):
        return 0

    # The token that ends the tag may hold the first of the thought, and then counts.
    until_opened = tokenizer.decode(ids[:opened])
    start = opened if until_opened.endswith(THINK) else opened - 1

    text = tokenizer.decode(ids)
    thought = text.partition(THINK)[2]
    if not closing or closing not in thought:
        # Tokens without a text count too: a model may know more ids than its tokenizer.
        return len(ids) - start

    if thought.startswith(closing):
        return 0

    # Back from the token that ends the closing tag to the one that begins it.
    rest = ids[start:]
    end = _count_until(tokenizer, rest, closing)
    first = end - 1
    tag = tokenizer.decode(rest[first:end])
    while closing not in tag:
        first -= 1
        tag = tokenizer.decode(rest[first:end])

    # Where it begins within a token, that one holds the last of the thought.
    return first if tag.startswith(closing) else first + 1


def find_forced_tokens(
    tokenizer,
    ids: Sequence[int],
    token: int,
    limits: ThinkingLimits,
    stops: set[int],
) -> list[int] | None:
    """Return the tokens that must come next so that the limits hold: none where the model may go on.

    Args:
        tokenizer: Of the model.
        ids: The completion so far.
        token: The one that the model has chosen to come next.
        limits: The bounds on the thought.
        stops: The tokens that end a turn.

    Returns:
        None where nothing will be forced any more, whatever follows: then it need not be asked again.
    """
    most = limits.max_tokens
    if most == 0 and not ids:
        return encode_text(tokenizer, DIRECT + BOX)

    # A thought has no more tokens than its completion. Decoding that for each token takes longer than a GPU's step.
    may_reach_maximum = most is not None and len(ids) >= most
    if not (may_reach_maximum or limits.min_tokens):
        return []

    text = tokenizer.decode(ids)
    _, opened, thought = text.partition(THINK)
    if END_THINK in thought:
        return None

    spent = count_thinking_tokens(tokenizer, ids, "") if opened else 0
    if most is not None and opened and spent >= most:
        # A tail that may be the start of the closing tag counts as thinking: the next token could make content of it.
        # Only what is missing of the tag is forced then.
        begun = _count_begun(text, END_THINK)
        missing = END_THINK[begun:]
        return encode_text(tokenizer, missing + "\n" + BOX)

    if spent < limits.min_tokens:
        return _extend_thought(tokenizer, ids, token, spent, limits, stops)
    # The minimum is reached for good; a maximum is still to come.
    return None if most is None else []


def _extend_thought(
    tokenizer,
    ids: Sequence[int],
    token: int,
    spent: int,
    limits: ThinkingLimits,
    stops: set[int],
) -> list[int]:
    """The tokens that take the place of ``token`` where it would end, or begin to end, so short a thought."""
    before = tokenizer.decode(ids)
    after = tokenizer.decode([*ids, token])
    if THINK not in after:
        return []

    thought = after.partition(THINK)[2]
    begun = _count_begun(thought, END_THINK)
    # A lone "<" may begin anything; two characters of the tag are taken for its beginning.
    is_closing = END_THINK in thought or begun >= 2
    if token not in stops and not is_closing:
        return []

    # One token may end the opening tag and begin the closing one, so the end of the opening tag may be missing.
    missing = ""
    if THINK not in before:
        begun = _count_begun(before, THINK)
        missing = THINK[begun:]

    separator = "" if before.endswith("\n") else "\n"
    more = encode_text(tokenizer, separator + CONTINUE)

    if limits.max_tokens is not None:
        more = more[: limits.max_tokens - spent]
    return encode_text(tokenizer, missing) + more


def _count_begun(text: str, tag: str) -> int:
    """How many first characters of ``tag`` stand at the end of ``text``, without the whole tag."""
    for length in range(len(tag) - 1, 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def _count_until(tokenizer, ids: Sequence[int], tag: str) -> int:
    """How many of the first tokens it takes to hold a tag; more than there are where they do not."""

    def holds_tag(count: int) -> bool:
        return tag in tokenizer.decode(ids[:count])

    # More tokens never lose a tag, so the counts need not all be tried.
    counts = range(len(ids) + 1)
    return bisect.bisect_left(counts, True, key=holds_tag)
