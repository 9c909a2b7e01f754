"""Rules: one fact, a chain of rules to an adjective or its negation, and rules that lead elsewhere."""

import itertools
import random
import re
from collections.abc import Sequence

from data.logic.problems import YES_NO, draw_names, draw_nouns, make_problem
from data.problem import Problem
from data.words import add_article

ADJECTIVES = "slow tall kind rich shy loud calm brave quick clever happy tired quiet honest hungry lucky busy proud"
# The most nouns of the chain that leads elsewhere.
MAX_ASIDE = 2
TEXTS = ("Is it true that {}?", "Does it follow that {}?")


def draw_rules(rng: random.Random, level: int) -> Problem | None:
    """One chain of ``level`` nouns and a claim about where it leads."""
    name = draw_names(rng, 1)[0]
    adjective = rng.choice(ADJECTIVES.split())

    nouns = draw_nouns(rng, level + min(level, MAX_ASIDE))
    chain = nouns[:level]
    aside = nouns[level:]

    is_so = rng.random() < 0.5
    asks_positive = rng.random() < 0.5
    # "All wugs are zorps" or "Every wug is a zorp", the same in the whole problem.
    plural = rng.random() < 0.5

    # The other chain ends in the opposite, so that counting negations does not give the answer.
    steps = _write_chain(chain, adjective, is_so, plural)
    rules = steps + _write_chain(aside, adjective, not is_so, plural)
    rng.shuffle(rules)

    fact = f"{name} is {add_article(chain[0])}."
    claim = f"{name} is {_negate(adjective, asks_positive)}"
    question = rng.choice(TEXTS).format(claim)
    end = _negate(adjective, is_so)
    return make_problem(
        "rules",
        level,
        " ".join([fact, *rules, question]),
        "yes" if is_so == asks_positive else "no",
        YES_NO,
        [fact, *steps, f"So {name} is {end}."],
        f"{name}, {' '.join(chain)} {end}; {' '.join(aside)}",
    )


def _negate(adjective: str, positive: bool) -> str:
    return adjective if positive else f"not {adjective}"


def _write_chain(
    nouns: list[str],
    adjective: str,
    positive: bool,
    plural: bool,
) -> list[str]:
    """The rules from each noun to the next, and from the last one to the adjective."""
    rules = [_write_rule(noun, other, plural) for noun, other in itertools.pairwise(nouns)]
    last = _write_last_rule(nouns[-1], adjective, positive, plural)
    return [*rules, last]


def _write_rule(noun: str, other: str, plural: bool) -> str:
    return f"All {noun}s are {other}s." if plural else f"Every {noun} is {add_article(other)}."


def _write_last_rule(
    noun: str,
    adjective: str,
    positive: bool,
    plural: bool,
) -> str:
    if plural:
        return f"{'All' if positive else 'No'} {noun}s are {adjective}."
    return f"{'Every' if positive else 'No'} {noun} is {adjective}."


# The procedure: from the fact on, the rule that begins where the last sentence ended. What was found is then compared
# with what is asked: of models that had to write the answer in one go, most wrote "no" wherever they had found a "not".

_FACT = re.compile(r"(\w+) is an? (\w+)\.")
_RULE = re.compile(r"(All|Every|No) (\w+) (?:is|are) (?:an? )?(\w+)\.")
_CONCLUSION = re.compile(r"So \w+ is ((?:not )?\w+)\.")
_CLAIM = re.compile(r"\w+ is ((?:not )?\w+)\?$")


def list_next_lines(question: str, lines: Sequence[str]) -> list[str]:
    """The lines that may follow ``lines`` in a solution of the question; none after the last one."""
    fact = _FACT.match(question)
    claim = _CLAIM.search(question)
    if fact is None or claim is None:
        return []
    if not lines:
        return [fact[0]]
    if lines[-1].startswith("Asked "):
        return []

    conclusion = _CONCLUSION.fullmatch(lines[-1])
    if conclusion:
        # What is found of another adjective says nothing of the one that is asked for.
        if conclusion[1].removeprefix("not ") != claim[1].removeprefix("not "):
            return []
        answer = "yes" if conclusion[1] == claim[1] else "no"
        return [f"Asked {claim[1]}, found {conclusion[1]}: {answer}."]

    last = _RULE.fullmatch(lines[-1])
    reached = last[3] if last else fact[2]
    for rule in _RULE.finditer(question):
        if _take_singular(rule[2]) == _take_singular(reached):
            return [rule[0]]

    # No rule goes on from an adjective.
    is_denied = last is not None and last[1] == "No"
    return [f"So {fact[1]} is {_negate(reached, not is_denied)}."]


def _take_singular(noun: str) -> str:
    return noun.removesuffix("s")
