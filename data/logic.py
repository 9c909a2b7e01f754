"""logic_v1: rule chains, truth values, orderings, syllogisms and analogies, each with its worked trace.

Every family is made so that its surface does not give the answer away: each wording, negation and mood
comes with either answer, and ``splits.build`` keeps as many of one label as of the other.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from data.arithmetic import MOST_WORDS
from data.records import Problem, split_of
from data.stories import NAMES

ROLES = (
    "baker singer dancer painter farmer pilot runner swimmer gardener writer sailor teacher driver hiker cook "
    "lawyer artist builder climber skater reporter hunter rider juggler trader camper diver poet actor"
)
INVENTED = "wug zorp blicket florp tove mib grib quam snark plim vork lorp tam nurk yib gorp zill brap fep dorn"
ADJECTIVES = "slow tall kind rich shy loud calm brave quick clever happy tired quiet honest hungry lucky busy proud"


YES_NO = ("yes", "no")
TRUE_FALSE = ("True", "False")
VALIDITY = ("valid", "invalid")
LABELS = (YES_NO, TRUE_FALSE, VALIDITY)


def families(level: int) -> tuple[str, ...]:
    """The families that have problems at this level."""
    return ("analogy", "boolean", "ordering", "rules", "syllogism")


def _names(rng: random.Random, count: int) -> list[str]:
    return rng.sample(" ".join(NAMES.values()).split(), count)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _start(text: str) -> str:
    return text[0].upper() + text[1:]


# Rules: one fact, a chain of rules to an adjective or its negation, and rules that lead elsewhere

OTHER_RULES = {1: 1, 2: 2, 3: 2, 4: 2, 5: 2}


def _rule(nouns: tuple[str, ...], adjective: str, positive: bool, plural: bool) -> str:
    """A rule from a noun to a noun, or to the adjective where there is no second noun."""
    subject = f"{nouns[0]}s" if plural else nouns[0]
    if len(nouns) == 2:
        return f"All {subject} are {nouns[1]}s." if plural else f"Every {subject} is {_a(nouns[1])}."
    quantifier = ("All" if plural else "Every") if positive else "No"
    return f"{quantifier} {subject} {'are' if plural else 'is'} {adjective}."


def _rules(rng: random.Random, level: int) -> Problem | None:
    name = _names(rng, 1)[0]
    adjective = rng.choice(ADJECTIVES.split())
    others = OTHER_RULES[level]
    nouns = rng.sample(rng.choice((ROLES, INVENTED)).split(), level + others)
    chain, aside = nouns[:level], nouns[level:]
    holds, asked, plural = (rng.random() < 0.5 for _ in range(3))

    def path(through: list[str], positive: bool) -> list[str]:
        links: list[tuple[str, ...]] = [*itertools.pairwise(through), (through[-1],)]
        return [_rule(link, adjective, positive, plural) for link in links]

    # the other chain ends in the opposite, so that counting negations does not give the answer
    used = path(chain, holds)
    rules = used + path(aside, not holds)
    rng.shuffle(rules)
    claim = f"{name} is {'' if asked else 'not '}{adjective}"
    question = rng.choice(("Is it true that {}?", "Does it follow that {}?")).format(claim)
    fact = f"{name} is {_a(chain[0])}."
    conclusion = f"So {name} is {'' if holds else 'not '}{adjective}."
    return _problem(
        "rules",
        level,
        " ".join([fact, *rules, question]),
        "yes" if holds == asked else "no",
        YES_NO,
        "\n".join([fact, *used, conclusion]),
        f"{name}, {' '.join(chain)}{' ' if holds else ' not '}{adjective}; {' '.join(aside)}",
    )


# Truth values: a tree of not, and, or over constants and comparisons

Truth: TypeAlias = "str | tuple[str, Truth] | tuple[str, Truth, Truth]"

COMPARISONS = {1: 0.5, 2: 0.25, 3: 0.1, 4: 0.1, 5: 0.1}  # how often: constants alone give only ten problems at level 1
OPERATORS = ("not", "and", "and", "or", "or")
BOOLEAN_TEXTS = (
    "What is {}?",
    "Evaluate {}.",
    "True or False: what is the value of {}?",
    "Find the truth value of {}.",
)


def _truth(rng: random.Random, operators: int, comparisons: float) -> Truth:
    if operators == 0:
        if rng.random() >= comparisons:
            return rng.choice(("True", "False"))
        a, b = rng.sample(range(1, 10), 2)
        return f"({a} {rng.choice('<>')} {b})"
    op = rng.choice(OPERATORS)
    if op == "not":
        return (op, _truth(rng, operators - 1, comparisons))
    left = rng.randint(0, operators - 1)
    return (op, _truth(rng, left, comparisons), _truth(rng, operators - 1 - left, comparisons))


def _written(tree: Truth, inside: bool = False) -> str:
    """A tree as text, with parentheses around whatever is an operand, so that no precedence is needed."""
    if isinstance(tree, str):
        return tree
    text = f"not {_written(tree[1], True)}"
    if len(tree) == 3:
        text = f"{_written(tree[1], True)} {tree[0]} {_written(tree[2], True)}"
    return f"({text})" if inside else text


def _evaluate(tree: Truth, lines: list[str]) -> bool:
    """The value of a tree; what it took is added to ``lines``, innermost first."""
    if isinstance(tree, str):
        if tree in ("True", "False"):
            return tree == "True"
        a, sign, b = tree.strip("()").split()
        value = (a < b) if sign == "<" else (a > b)  # single digits
        text = tree
    elif len(tree) == 2:
        inner = _evaluate(tree[1], lines)
        value, text = not inner, f"not {inner}"
    else:
        op, left, right = tree[0], _evaluate(tree[1], lines), _evaluate(tree[2], lines)
        value, text = (left and right) if op == "and" else (left or right), f"{left} {op} {right}"
    lines.append(f"{text} = {value}")
    return value


def _boolean(rng: random.Random, level: int) -> Problem | None:
    top, wanted = rng.choice(OPERATORS), rng.random() < 0.5
    while True:  # until this operator gives this value: else an outer "or" would mean True three times in four
        tree = _truth(rng, level, COMPARISONS[level])
        lines: list[str] = []
        if _evaluate(tree, lines) == wanted and tree[0] == top:
            break
    text = _written(tree)
    if "not (not" in text:
        return None
    question = rng.choice(BOOLEAN_TEXTS).format(text)
    return _problem("boolean", level, question, str(wanted), TRUE_FALSE, "\n".join(lines), text)


# Orderings: neighbors in a row are compared, and someone in it is asked for

RELATIONS_OF_ORDER = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("heavier", "lighter", "heaviest", "lightest"),
    ("richer", "poorer", "richest", "poorest"),
    ("stronger", "weaker", "strongest", "weakest"),
    ("louder", "quieter", "loudest", "quietest"),
)


def _ordering(rng: random.Random, level: int) -> Problem | None:
    row = _names(rng, level + 1)
    more, less, most, least = rng.choice(RELATIONS_OF_ORDER)

    def compared(a: str, b: str) -> tuple[str, str, str]:
        """Two people, the first of them ahead, in either way of saying it."""
        return (a, more, b) if rng.random() < 0.5 else (b, less, a)

    premises = [f"{a} is {word} than {b}." for a, word, b in (compared(a, b) for a, b in itertools.pairwise(row))]
    if level >= 3:
        rng.shuffle(premises)
    elif rng.random() < 0.5:
        premises.reverse()
    lines = [f"{_start(most)} to {least}: {' > '.join(row)}"]
    if rng.random() < 0.5:
        ahead, behind = sorted(rng.sample(range(len(row)), 2))
        a, word, b = compared(row[ahead], row[behind])
        holds = rng.random() < 0.5
        if not holds:
            a, b = b, a
        lines += [f"{row[ahead]} comes before {row[behind]}.", f"So {a} is {'' if holds else 'not '}{word} than {b}."]
        question = " ".join([*premises, f"Is {a} {word} than {b}?"])
        key = f"{more}: {' > '.join(row)}: {row[ahead]}, {row[behind]}"
        return _problem("ordering", level, question, "yes" if holds else "no", YES_NO, "\n".join(lines), key)
    place = rng.choice((0, -1) if level < 3 else (0, 1, -2, -1))
    asked = (more if place == 0 else less) if level == 1 else (most if place >= 0 else least)
    asked = f"second {asked}" if place in (1, -2) else asked
    question = " ".join([*premises, f"Who is {asked}?" if level == 1 else f"Who is the {asked}?"])
    lines.append(f"{_start(asked)}: {row[place]}")
    choices = tuple(rng.sample(row, len(row)))
    key = f"{more}: {' > '.join(row)}: {row[place]}"
    return _problem("ordering", level, question, row[place], choices, "\n".join(lines), key)


# Syllogisms: A "all X are Y", E "no X are Y", I "some X are Y", O "some X are not Y"

# The fifteen forms that are valid without assuming that there is an X; a form is a mood and a figure.
# The nine that are valid only if there is an X are of no mood below: logicians differ on them.
VALID = "AAA1 EAE1 AII1 EIO1 EAE2 AEE2 EIO2 AOO2 IAI3 AII3 OAO3 EIO3 AEE4 IAI4 EIO4"
# Each mood has valid and invalid figures, so it gives no hint; EIO is always valid, and IEO, which reads the same
# in another order, never is.
MOODS = {
    1: ("AAA", "EAE"),
    2: ("AAA", "EAE", "AII"),
    3: ("EAE", "AEE", "AII", "IAI"),
    4: ("AEE", "IAI", "EIO", "AOO"),
    5: ("AEE", "IAI", "EIO", "AOO", "OAO"),
}
SENTENCES = {"A": "all {} are {}", "E": "no {} are {}", "I": "some {} are {}", "O": "some {} are not {}"}
SYLLOGISM_TEXTS = (
    "{} {} Therefore, {}. Is this argument valid or invalid?",
    "Premises: {} {} Conclusion: {}. Is this valid or invalid?",
    "{} {} So {}. Is the reasoning valid or invalid?",
)

Statement: TypeAlias = tuple[str, str, str]  # the letter, the subject, the predicate
Member: TypeAlias = frozenset[str]  # a thing, as the terms that are true of it


def _statements(form: str, s: str, m: str, p: str) -> tuple[Statement, Statement, Statement]:
    """The two premises and the conclusion of a form, for the terms s, m and p."""
    first, second, third, figure = list(form)
    major = (first, m, p) if figure in "13" else (first, p, m)
    minor = (second, s, m) if figure in "12" else (second, m, s)
    return major, minor, (third, s, p)


def _holds(statement: Statement, members: tuple[Member, ...]) -> bool:
    letter, x, y = statement
    among = [y in member for member in members if x in member]
    return {"A": all(among), "E": not any(among), "I": any(among), "O": not all(among)}[letter]


def _counterexample(statements: tuple[Statement, Statement, Statement], terms: list[str]) -> tuple[Member, ...]:
    """The smallest world in which the premises hold and the conclusion does not, with something of every kind."""
    kinds = [frozenset(kind) for count in (3, 2, 1) for kind in itertools.combinations(terms, count)]
    for size in (1, 2, 3):
        for members in itertools.combinations(kinds, size):
            if frozenset().union(*members) == set(terms) and [
                _holds(statement, members) for statement in statements
            ] == [True, True, False]:
                return members
    raise ValueError(f"no counterexample to {statements}")


def _derivation(statements: tuple[Statement, Statement, Statement]) -> Iterator[str]:
    """The proof of a valid form: one thing, and what the premises make of it."""
    letter, subject, _ = statements[2]
    premises = list(statements[:2])
    if letter in "AE":
        known = {subject: True}
        yield f"Take any {subject}."
    else:
        some = next(premise for premise in premises if premise[0] in "IO")
        premises.remove(some)
        known = {some[1]: True, some[2]: some[0] == "I"}
        yield f"Take {_a(some[1])}, {'also' if known[some[2]] else 'not'} {_a(some[2])}."
    while premises:
        for premise in premises:
            quantifier, x, y = premise
            if known.get(x):
                found, value = y, quantifier == "A"
            elif known.get(y) == (quantifier == "E"):  # not y, and all x are y; or y, and no x are y
                found, value = x, False
            else:
                continue
            known[found] = value
            premises.remove(premise)
            yield f"{_sentence(premise)[:-1]}, so {'' if value else 'not '}{_a(found)}."
            break
        else:
            raise ValueError(f"no proof of {statements}")


def _sentence(statement: Statement) -> str:
    letter, x, y = statement
    return _start(SENTENCES[letter].format(f"{x}s", f"{y}s")) + "."


def _form(rng: random.Random, level: int, valid: bool) -> str:
    mood = rng.choice(MOODS[level])
    if mood == "EIO" and not valid:
        mood = "IEO"
    forms = [f"{mood}{figure}" for figure in "1234" if (f"{mood}{figure}" in VALID.split()) == valid]
    return rng.choice(forms[:1] if level == 1 and valid else forms)  # the first figure is the plainest


def _syllogism(rng: random.Random, level: int) -> Problem | None:
    valid = rng.random() < 0.5
    form = _form(rng, level, valid)
    terms = rng.sample(rng.choice((ROLES, INVENTED)).split(), 3)
    statements = _statements(form, *terms)
    premises = [_sentence(statement) for statement in statements[:2]]
    if level >= 3 and rng.random() < 0.5:
        premises.reverse()
    letter, s, p = statements[2]
    text = rng.choice(SYLLOGISM_TEXTS)
    claim = SENTENCES[letter].format(f"{s}s", f"{p}s")
    question = text.format(*premises, _start(claim) if "Conclusion: {}" in text else claim)
    if valid:
        lines = [*_derivation(statements), "So it follows."]
    else:
        lines = []
        for count, member in enumerate(_counterexample(statements, terms)):
            facts = [_a(term) for term in terms if term in member]
            facts += [f"not {_a(term)}" for term in terms if term not in member]
            lines.append(f"Suppose {'another' if count else 'one'} is {', '.join(facts)}.")
        lines.append("Both premises hold, the conclusion does not.")
    answer = "valid" if valid else "invalid"
    key = f"{form}: {', '.join(terms)}"
    return _problem("syllogism", level, question, answer, VALIDITY, "\n".join(lines), key)


# Analogies: two pairs of one relation


@dataclass(frozen=True)
class Relation:
    """Pairs a, b such that "a is PHRASE b" holds within the relation for no other pair.

    ``kinds`` names what a and b are: a wrong choice from another relation is of another kind, or it might fit
    after all. ``ask`` lists the sides that may be asked for: not b where more than one thing in the world fits.
    The third word of a pair belongs to its scene and fits on neither side.
    """

    phrase: str
    kinds: tuple[str, str]
    pairs: tuple[tuple[str, str, str], ...]
    ask: str = "ab"


def _pairs(text: str) -> tuple[tuple[str, str, str], ...]:
    words = [line.split() for line in text.split(",")]
    return tuple((a, b, near) for a, b, near in words)


RELATIONS = (
    Relation(
        "the young of",
        ("animal", "animal"),
        _pairs(
            "puppy dog leash, kitten cat yarn, calf cow milk, foal horse saddle, lamb sheep wool, piglet pig mud, "
            "chick hen feather, duckling duck pond, fawn deer antler, joey kangaroo pouch, tadpole frog lily, "
            "cub bear honey"
        ),
    ),
    Relation(
        "the opposite of",
        ("quality", "quality"),
        _pairs(
            "hot cold weather, big small size, fast slow speed, up down stairs, bright dark lamp, happy sad mood, "
            "early late clock, hard soft pillow, wet dry towel, full empty cup, rich poor money, open closed door"
        ),
    ),
    Relation(
        "the workplace of",
        ("place", "person"),
        _pairs(
            "school teacher chalk, hospital nurse bandage, kitchen chef stew, farm farmer tractor, "
            "court judge verdict, cockpit pilot cloud, theater actor script, library librarian novel, "
            "ship sailor anchor, mine miner coal, laboratory scientist microscope, church priest prayer"
        ),
    ),
    Relation(
        "the tool of",
        ("thing", "person"),
        _pairs(
            "hammer carpenter shelf, paintbrush painter picture, stethoscope doctor patient, scissors barber beard, "
            "camera photographer smile, telescope astronomer comet, net fisherman storm, rake gardener hedge, "
            "whistle referee goal, wrench plumber pipe, axe lumberjack forest, pen author poem"
        ),
    ),
    Relation(
        "the capital of",
        ("city", "country"),
        _pairs(
            "Paris France Lyon, Rome Italy Milan, Tokyo Japan Osaka, Cairo Egypt Alexandria, Madrid Spain Barcelona, "
            "Berlin Germany Munich, Athens Greece Sparta, Moscow Russia Kazan, Beijing China Shanghai, "
            "Ottawa Canada Toronto, Lima Peru Cusco, Nairobi Kenya Mombasa"
        ),
    ),
    Relation(
        "the material of",
        ("material", "thing"),
        _pairs(
            "glass window curtain, rubber tire road, paper book reader, clay brick builder, leather boot sock, "
            "wool sweater winter, gold ring finger, wax candle flame, denim jeans pocket, flour bread butter, "
            "cocoa chocolate wrapper, milk cheese mouse"
        ),
        "a",
    ),
    Relation(
        "the home of",
        ("place", "animal"),
        _pairs(
            "hive bee honey, web spider fly, nest bird feather, stable horse saddle, burrow rabbit carrot, "
            "anthill ant crumb, lodge beaver river, den wolf moon, kennel dog bone, aquarium goldfish bubble, "
            "sty pig mud, cave bat night"
        ),
    ),
    Relation(
        "the sound of",
        ("sound", "animal"),
        _pairs(
            "bark dog tail, meow cat claw, moo cow barn, neigh horse hoof, roar lion mane, quack duck pond, "
            "oink pig mud, croak frog lily, hiss snake fang, buzz bee honey, hoot owl night, baa sheep wool"
        ),
    ),
    Relation(
        "a group of",
        ("group", "animal"),
        _pairs(
            "flock birds feather, pack wolves moon, school fish hook, swarm bees honey, pride lions mane, "
            "crew sailors anchor, choir singers song, army soldiers tank, fleet ships harbor, herd elephants trunk, "
            "forest trees leaf, team players ball"
        ),
    ),
    Relation(
        "a part of",
        ("thing", "thing"),
        _pairs(
            "petal flower bee, page book reader, wing airplane airport, pedal bicycle helmet, branch tree squirrel, "
            "finger hand glove, roof house street, string guitar concert, sleeve shirt iron, sail boat lake, "
            "fin shark diver, lid jar jam"
        ),
        "a",
    ),
    Relation(
        "used to",
        ("thing", "verb"),
        _pairs(
            "eye see color, ear hear noise, nose smell flower, tongue taste salt, lung breathe air, leg walk road, "
            "brain think idea, tooth chew gum, wing fly sky, fin swim pool, stomach digest meal, hand hold rope"
        ),
    ),
    Relation(
        "meant to",
        ("thing", "verb"),
        _pairs(
            "knife cut bread, pencil write letter, broom sweep dust, shovel dig hole, needle sew cloth, "
            "oven bake cake, key unlock door, ruler measure line, soap wash dirt, towel dry bath, rope tie knot, "
            "ladder climb cliff"
        ),
    ),
    Relation(
        "the cause of",
        ("event", "event"),
        _pairs(
            "rain flood umbrella, fire smoke chimney, lightning thunder sky, joke laughter stage, "
            "exercise sweat towel, gravity fall apple, insult anger fist, cut bleeding bandage, drought famine desert, "
            "wind waves sailor, sugar cavities dentist, pepper sneezing soup"
        ),
    ),
    Relation(
        "the color of",
        ("color", "thing"),
        _pairs(
            "white snow winter, red tomato salad, yellow banana monkey, green grass meadow, blue sky airplane, "
            "orange carrot rabbit, black coal miner, brown chocolate cake, pink flamingo lake, gray elephant trunk, "
            "purple eggplant oven"
        ),
        "a",
    ),
)

# How many wrong choices come from other relations, how many from the same one, and whether one is of the scene.
WRONG_CHOICES = {1: (3, 0, False), 2: (2, 1, False), 3: (1, 2, False), 4: (0, 2, True), 5: (0, 3, True)}
ANALOGY_TEXTS = (
    "{} is to {} as {} is to {}? Choose from: {}.",
    "Complete the analogy: {} is to {} as {} is to {}? Choose from: {}.",
    "Which word fits? {} is to {} as {} is to {}. Choose from: {}.",
)


def _analogy(rng: random.Random, level: int) -> Problem | None:
    relation = rng.choice(RELATIONS)
    shown, hidden = rng.sample(relation.pairs, 2)
    # What is asked decides the split; so what is shown must not be what another split asks, but train may be shown.
    key, other = (f"{relation.phrase}: {x} {y}" for x, y, _ in (hidden, shown))
    if split_of(f"analogy: {other}") not in ("train", split_of(f"analogy: {key}")):
        return None
    side = rng.choice([0, 1] if relation.ask == "ab" else [0])
    answer, given = hidden[side], hidden[1 - side]
    others, same, near = WRONG_CHOICES[level]
    said = {*shown, *hidden}
    elsewhere = [
        pair[i]
        for other in RELATIONS
        for i in (0, 1)
        if relation.kinds[side] != other.kinds[i] and given not in itertools.chain(*other.pairs)
        for pair in other.pairs
        if pair[i] not in said
    ]
    alike = [pair[side] for pair in relation.pairs if pair[side] not in said]
    choices = [answer, *rng.sample(elsewhere, others), *rng.sample(alike, same), *([hidden[2]] if near else [])]
    if len(set(choices)) < len(choices):
        return None
    rng.shuffle(choices)
    a, b = shown[:2]
    lines = [f"{a} is {relation.phrase} {b}"]
    lines.append(f"{relation.phrase} {given}: {answer}" if side == 0 else f"{given} is {relation.phrase} {answer}")
    text = rng.choice(ANALOGY_TEXTS)
    blank = "___" if "fits" in text else "what"
    second = [given, given]
    second[side] = blank
    first = [a, b]
    if rng.random() < 0.5:
        first.reverse()
        second.reverse()
    first[0] = _start(first[0])
    question = text.format(*first, *second, ", ".join(choices))
    return _problem("analogy", level, question, answer, tuple(choices), "\n".join(lines), key)


# One problem


def _problem(
    family: str, level: int, question: str, answer: str, choices: tuple[str, ...], trace: str, key: str
) -> Problem | None:
    if max(len(question.split()), len(trace.split())) > MOST_WORDS:
        return None
    return Problem(
        id="",
        question=question,
        answer=answer,
        kind="label" if choices in LABELS else "text",
        choices=choices,
        family=family,
        level=level,
        rationale=trace,
        extra={"key": f"{family}: {key}"},
    )


def make(rng: random.Random, level: int, family: str | None = None) -> Problem:
    """One problem without an id; the family is drawn where none is asked for."""
    family = family or rng.choice(families(level))
    draws = {
        "analogy": _analogy,
        "boolean": _boolean,
        "ordering": _ordering,
        "rules": _rules,
        "syllogism": _syllogism,
    }
    while (problem := draws[family](rng, level)) is None:
        pass
    return problem
