"""Syllogisms: two premises about three terms, and whether a conclusion follows.

A statement's letter: A "all X are Y", E "no X are Y", I "some X are Y", O "some X are not Y". A form is a mood, the
letters of premises and conclusion, and a figure, the order of the terms in them (1 to 4).
"""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from data.logic.problems import VALIDITY, draw_nouns, make_problem
from data.problem import Problem
from data.words import add_article, capitalize_first

# The fifteen forms that are valid without assuming that there is an X.
# The nine that are valid only if there is an X are of no mood below: logicians differ on them.
VALID = "AAA1 EAE1 AII1 EIO1 EAE2 AEE2 EIO2 AOO2 IAI3 AII3 OAO3 EIO3 AEE4 IAI4 EIO4"

# Each mood has valid and invalid figures, so it gives no hint; EIO is always valid, and IEO, which reads the same in
# another order, never is.
MOODS = {
    1: ("AAA", "EAE"),
    2: ("AAA", "EAE", "AII"),
    3: ("EAE", "AEE", "AII", "IAI"),
    4: ("AEE", "IAI", "EIO", "AOO"),
    5: ("AEE", "IAI", "EIO", "AOO", "OAO"),
}
SENTENCES = {"A": "all {} are {}", "E": "no {} are {}", "I": "some {} are {}", "O": "some {} are not {}"}
TEXTS = (
    "{} {} Therefore, {}. Is this argument valid or invalid?",
    "Premises: {} {} Conclusion: {}. Is this valid or invalid?",
    "{} {} So {}. Is the reasoning valid or invalid?",
)

# What is known of a thing: which terms are true of it, and which are not.
Facts: TypeAlias = dict[str, bool]
# Things, each as the terms that are true of it.
World: TypeAlias = tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Statement:
    """A letter and its two terms."""

    letter: str
    subject: str
    predicate: str

    def write_claim(self) -> str:
        """The statement within a sentence."""
        return SENTENCES[self.letter].format(f"{self.subject}s", f"{self.predicate}s")

    def write_opening(self) -> str:
        """The statement at the start of a sentence."""
        return capitalize_first(self.write_claim())

    def is_true_of(self, world: World) -> bool:
        """Whether it is true in a world."""
        matches = [self.predicate in thing for thing in world if self.subject in thing]
        truths = {
            "A": all(matches),
            "E": not any(matches),
            "I": any(matches),
            "O": not all(matches),
        }
        return truths[self.letter]


def draw_syllogism(rng: random.Random, level: int) -> Problem | None:
    """One argument, valid or not."""
    # First whether it is valid, then a form of that kind: drawn at random, most forms are invalid.
    valid = rng.random() < 0.5
    form = _draw_form(rng, level, valid)
    terms = draw_nouns(rng, 3)
    *premises, conclusion = _make_statements(form, *terms)

    sentences = [f"{premise.write_opening()}." for premise in premises]
    if level >= 3 and rng.random() < 0.5:
        sentences.reverse()

    # Within a sentence a claim has no capital.
    text = rng.choice(TEXTS)
    claim = conclusion.write_opening() if "Conclusion: {}" in text else conclusion.write_claim()

    solution = _prove(premises, conclusion) if valid else _refute(premises, conclusion, terms)
    return make_problem(
        "syllogism",
        level,
        text.format(*sentences, claim),
        "valid" if valid else "invalid",
        VALIDITY,
        solution,
        f"{form}: {', '.join(terms)}",
    )


def _draw_form(rng: random.Random, level: int, valid: bool) -> str:
    mood = rng.choice(MOODS[level])
    if mood == "EIO" and not valid:
        mood = "IEO"

    valid_forms = VALID.split()
    forms = [mood + figure for figure in "1234"]
    forms = [form for form in forms if (form in valid_forms) == valid]
    # The first figure is the plainest.
    if level == 1 and valid:
        forms = forms[:1]
    return rng.choice(forms)


def _make_statements(
    form: str,
    s: str,
    m: str,
    p: str,
) -> list[Statement]:
    """The premises and the conclusion of a form; s and p are the conclusion's terms, m is the one between them."""
    first, second, third, figure = list(form)
    # The figure says where the middle term stands in each premise.
    major = (m, p) if figure in "13" else (p, m)
    minor = (s, m) if figure in "12" else (m, s)
    return [
        Statement(first, *major),
        Statement(second, *minor),
        Statement(third, s, p),
    ]


def _prove(premises: Sequence[Statement], conclusion: Statement) -> list[str]:
    """The proof of a valid form: one thing, and what the premises make of it."""
    # A conclusion about all or no X needs any X; one about some X needs the thing that a premise speaks of.
    if conclusion.letter in "AE":
        facts = {conclusion.subject: True}
        lines = [f"Take any {conclusion.subject}."]
        rest = list(premises)
    else:
        [some] = [premise for premise in premises if premise.letter in "IO"]
        positive = some.letter == "I"
        facts = {some.subject: True, some.predicate: positive}
        also = "also" if positive else "not"
        lines = [f"Take {add_article(some.subject)}, {also} {add_article(some.predicate)}."]
        rest = [premise for premise in premises if premise is not some]

    # Each premise is used once, in the order in which it has something to say.
    while rest:
        premise = next(premise for premise in rest if _apply(premise, facts))
        new_facts = _apply(premise, facts)
        facts |= new_facts
        rest.remove(premise)
        for term, value in new_facts.items():
            negation = "" if value else "not "
            lines.append(f"{premise.write_opening()}, so {negation}{add_article(term)}.")
    return [*lines, "So it follows."]


def _apply(premise: Statement, facts: Facts) -> Facts:
    """What a premise about all or no X says of a thing, given the facts about it; empty where it says nothing."""
    if facts.get(premise.subject):
        return {premise.predicate: premise.letter == "A"}

    # Not y, and all x are y; or y, and no x are y.
    if facts.get(premise.predicate) == (premise.letter == "E"):
        return {premise.subject: False}
    return {}


def _refute(premises: Sequence[Statement], conclusion: Statement, terms: Sequence[str]) -> list[str]:
    """A world in which the premises are true and the conclusion is not."""
    lines: list[str] = []
    for member in _find_counterexample(premises, conclusion, terms):
        facts = [add_article(term) for term in terms if term in member]
        facts += [f"not {add_article(term)}" for term in terms if term not in member]
        lines.append(f"Suppose {'another' if lines else 'one'} is {', '.join(facts)}.")
    return [*lines, "Both premises hold, the conclusion does not."]


def _find_counterexample(premises: Sequence[Statement], conclusion: Statement, terms: Sequence[str]) -> World:
    """The smallest world that refutes a conclusion, with something of every kind in it."""
    # Things with many terms first: fewer of them cover every kind.
    kinds: list[frozenset[str]] = []
    for count in (3, 2, 1):
        kinds += map(frozenset, itertools.combinations(terms, count))

    # Three things are enough for the invalid forms of the moods above.
    for size in (1, 2, 3):
        for world in itertools.combinations(kinds, size):
            has_every_kind = frozenset().union(*world) == set(terms)
            premises_hold = all(premise.is_true_of(world) for premise in premises)
            if has_every_kind and premises_hold and not conclusion.is_true_of(world):
                return world
    raise ValueError(f"no counterexample to {conclusion} from {premises}")


# The procedure: a refutation. Of the premises and the denied conclusion, exactly one says that some thing exists; the
# other two are then applied to this thing, in turn, until it is impossible or both have nothing new to say.

_STATEMENT = re.compile(r"\b(all|no|some) (\w+)s are (not )?(\w+)s\b", re.IGNORECASE)
_LETTERS = {"all ": "A", "no ": "E", "some ": "I", "some not ": "O"}
_DENIALS = {"A": "O", "E": "I", "I": "E", "O": "A"}


def list_next_lines(question: str, lines: Sequence[str]) -> list[str]:
    """The lines that may follow ``lines`` in a solution of the question; none after the last one."""
    read = _read_statements(question)
    if len(read) != 3:
        return []
    *premises, conclusion = read
    denial = Statement(_DENIALS[conclusion.letter], conclusion.subject, conclusion.predicate)

    statements = [*premises, denial]
    found = [statement for statement in statements if statement.letter in "IO"]
    # A syllogism that is none of ours.
    if len(found) != 1:
        return []
    if not lines:
        return [f"Suppose not: {denial.write_claim()}."]

    existing = found[0]
    facts = {existing.subject: True, existing.predicate: existing.letter == "I"}
    if len(lines) == 1:
        return [f"{existing.write_opening()}: {_write_facts(existing, facts)}."]
    # The conclusion is the last line.
    if lines[-1].startswith("So "):
        return []

    # Either of the two may come first.
    rules = [statement for statement in statements if statement is not existing]
    applied = lines[2:]
    if not applied:
        return [_write_rule(rule, facts) for rule in rules]
    if applied[0].startswith(rules[1].write_opening()):
        rules.reverse()

    # From here on the two take turns; what each line came to is worked out again.
    outcomes = []
    for index in range(len(applied)):
        rule = rules[index % 2]
        outcomes.append(_judge_rule(rule, facts))
        facts |= _apply(rule, facts)

    if outcomes[-1] == "impossible":
        return ["So valid."]
    if outcomes[-2:] == ["nothing new"] * 2:
        return ["So invalid."]
    return [_write_rule(rules[len(applied) % 2], facts)]


def _read_statements(question: str) -> list[Statement]:
    statements = []
    for quantifier, subject, negation, predicate in _STATEMENT.findall(question):
        words = f"{quantifier} {negation}".lower()
        # "All cats are not dogs" can be read in two ways, and is none of ours.
        if words not in _LETTERS:
            return []
        statements.append(Statement(_LETTERS[words], subject, predicate))
    return statements


def _write_facts(statement: Statement, facts: Facts) -> str:
    """What is known of a thing, for the two terms of a statement."""
    words = {True: "yes", False: "no", None: "unknown"}
    terms = (statement.subject, statement.predicate)
    return ", ".join(f"{term} {words[facts.get(term)]}" for term in terms)


def _write_rule(rule: Statement, facts: Facts) -> str:
    return f"{rule.write_opening()}: {_write_facts(rule, facts)}, {_judge_rule(rule, facts)}."


def _judge_rule(rule: Statement, facts: Facts) -> str:
    """What a rule makes of the facts."""
    # A rule says one thing at most.
    for term, value in _apply(rule, facts).items():
        if term not in facts:
            return f"so {term} {'yes' if value else 'no'}"
        if facts[term] != value:
            return "impossible"
    return "nothing new"
