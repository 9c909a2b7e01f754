"""Every committed answer of logic_v1 is worked out again here, from the question's text."""

import ast
import itertools
import re
from collections import Counter, defaultdict

import pytest

from data.logic.relations import read_relations
from data.splits import SPLITS

MORE = ("taller", "older", "faster", "heavier", "richer", "stronger", "louder")
MOST = ("tallest", "oldest", "fastest", "heaviest", "richest", "strongest", "loudest")


# Truth values


def evaluate(text):
    return str(eval(text, {"__builtins__": {}}))


def test_boolean(of_family):
    pattern = r"(?:What is(?: the value of)?|what is the value of|Evaluate|truth value of) (.*)[.?]$"
    answers = defaultdict(Counter)

    for problem in of_family("boolean"):
        text = re.search(pattern, problem.question).group(1)
        assert evaluate(text) == problem.answer

        tree = ast.parse(text, mode="eval").body
        assert isinstance(tree, (ast.BoolOp, ast.UnaryOp))
        assert count_operators(tree) == problem.level
        answers[type(tree.op).__name__][problem.answer] += 1

        for line in problem.rationale.split("\n"):
            left, value = line.split(" = ")
            assert evaluate(left) == value, line
        assert value == problem.answer

    # The outer operator does not give the answer away.
    assert set(answers) == {"And", "Or", "Not"}
    assert all(max(count.values()) <= 0.6 * count.total() for count in answers.values()), answers


def count_operators(tree):
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.UnaryOp):
            count += 1
    return count


# Rules


def parse_rule(sentence):
    quantifier, *words = sentence.rstrip(".").split()
    subject, target = words[0], words[-1]
    if quantifier == "All":
        return subject.removesuffix("s"), True, target.removesuffix("s")
    if words[1] == "are":
        return subject.removesuffix("s"), False, target
    return subject, quantifier != "No", target


def test_rules(of_family):
    for problem in of_family("rules"):
        *sentences, question = [sentence.strip() for sentence in re.findall(r"[^.?]+[.?]", problem.question)]
        name, noun = re.fullmatch(r"(\w+) is an? (\w+)\.", sentences[0]).groups()
        rules = [parse_rule(sentence) for sentence in sentences[1:]]

        facts = {(noun, True)}
        while new := {(target, positive) for subject, positive, target in rules if (subject, True) in facts} - facts:
            facts |= new

        negated, asked = re.search(rf"that {name} is (not )?(\w+)\?", question).groups()
        is_known = (asked, True) in facts or (asked, False) in facts
        asked = asked if is_known else asked.removesuffix("s")
        assert ((asked, True) in facts) != ((asked, False) in facts), problem.question
        assert problem.answer == ("yes" if (asked, not negated) in facts else "no"), problem.question

        *steps, conclusion = problem.rationale.split("\n")
        assert len(steps) == problem.level + 1
        assert set(steps) <= set(sentences)
        assert conclusion == f"So {name} is {'' if (asked, True) in facts else 'not '}{asked}."


# Orderings


def test_orderings(of_family):
    for problem in of_family("ordering"):
        *premises, question = re.findall(r"[^.?]+[.?]", problem.question)
        above = []
        for premise in premises:
            a, word, b = re.search(r"(\w+) is (\w+) than (\w+)", premise).groups()
            above.append((a, b) if word in MORE else (b, a))

        names = {name for pair in above for name in pair}
        assert len(names) == problem.level + 1
        rows = [row for row in itertools.permutations(names) if all(row.index(a) < row.index(b) for a, b in above)]
        [row] = rows

        assert problem.answer == answer_ordering(row, question, problem.kind), problem.question
        if problem.kind == "text":
            assert set(problem.choices) == names
        assert problem.rationale.split("\n")[0].split(": ")[1].split(" > ") == list(row)


def answer_ordering(row, question, kind):
    if kind == "label":
        a, word, b = re.search(r"Is (\w+) (\w+) than (\w+)\?", question).groups()
        return "yes" if (row.index(a) < row.index(b)) == (word in MORE) else "no"
    second, word = re.search(r"Who is (?:the )?(second )?(\w+)\?", question).groups()
    return (row if word in MORE + MOST else row[::-1])[bool(second)]


# Syllogisms


def parse_claim(text):
    quantifier, x, negated, y = re.search(r"(?i)(all|no|some) (\w+?)s are (not )?(\w+?)s\b", text).groups()
    return quantifier.lower(), bool(negated), x, y


def is_true(claim, world):
    quantifier, negated, x, y = claim
    found = [(y in thing) != negated for thing in world if x in thing]
    return {"all": all(found), "no": not any(found), "some": any(found)}[quantifier]


def list_worlds(terms):
    kinds = []
    for count in range(4):
        kinds += [frozenset(kind) for kind in itertools.combinations(terms, count)]
    worlds = []
    for count in range(9):
        worlds += itertools.combinations(kinds, count)
    assert len(worlds) == 256
    return worlds


def refutes(world, claims):
    return is_true(claims[0], world) and is_true(claims[1], world) and not is_true(claims[2], world)


def test_syllogisms(of_family):
    for problem in of_family("syllogism"):
        sentences = re.findall(r"[^.?:]+[.?:]", problem.question)
        texts = [text for text in sentences if re.search(r"(?i)\b(all|no|some) ", text)]
        claims = [parse_claim(text) for text in texts]
        assert len(claims) == 3, problem.question

        terms = sorted({term for claim in claims for term in claim[2:]})
        refuting = [world for world in list_worlds(terms) if refutes(world, claims)]
        assert problem.answer == ("invalid" if refuting else "valid"), problem.question

        if refuting:
            # Nobody may call it valid by assuming that the things spoken of exist.
            assert any(set(terms) <= set().union(*world) for world in refuting), problem.question
            assert frozenset(parse_world(problem.rationale)) in map(frozenset, refuting), problem.rationale
        else:
            given = {text.strip().rstrip(".") for text in texts}
            steps = [line.split(", so ")[0] for line in problem.rationale.split("\n") if ", so " in line]
            assert steps and set(steps) <= given, problem.rationale


def parse_world(rationale):
    members = []
    for line in rationale.split("\n")[:-1]:
        facts = re.findall(r"(not )?an? (\w+)", line)
        members.append(frozenset(term for negated, term in facts if not negated))
    return members


# Analogies


def test_analogies(of_family):
    pattern = r"(\w+) is to (\w+) as (\w+) is to (\w+)[.?] Choose from: (.*)\.$"
    places = defaultdict(Counter)

    for problem in of_family("analogy"):
        a, b, c, d, choices = re.search(pattern, problem.question).groups()
        assert tuple(choices.split(", ")) == problem.choices
        assert len(set(problem.choices)) == len(problem.choices)

        blank = "___" if "___" in (c, d) else "what"
        fitting = set()
        for pairs in list_pairs():
            if (a, b) in pairs or (a[0].lower() + a[1:], b) in pairs:
                fitting |= {w for w in problem.choices if (w if c == blank else c, w if d == blank else d) in pairs}
        assert fitting == {problem.answer}, problem.question
        places[problem.level][problem.choices.index(problem.answer)] += 1

    assert all(max(count.values()) < 0.3 * count.total() for count in places.values()), places


def list_pairs():
    for relation in read_relations():
        yield {(a, b) for a, b, _ in relation.pairs}
        yield {(b, a) for a, b, _ in relation.pairs}


def test_a_relation_names_one_partner_each():
    assert len(read_relations()) >= 12
    for relation in read_relations():
        assert len(relation.pairs) >= 8
        words = [word for a, b, _ in relation.pairs for word in (a, b)]
        assert len(set(words)) == len(words), relation.phrase
        assert not {scene for _, _, scene in relation.pairs} & set(words), relation.phrase


def test_no_split_shows_what_another_asks(committed):
    """An analogy's fact is asked in one split, and train shows none that dev or test asks."""
    analogies = {}
    for split in SPLITS:
        analogies[split] = [p for p in committed["logic_v1", split] if p.family == "analogy"]
    asked = {split: {problem.extra["key"] for problem in analogies[split]} for split in SPLITS}
    assert all(len(keys) >= 20 for keys in asked.values())

    shown = {line for problem in analogies["train"] for line in problem.rationale.splitlines()}
    for relation in read_relations():
        for x, y, _ in relation.pairs:
            splits = [split for split in SPLITS if f"analogy: {relation.phrase}: {x} {y}" in asked[split]]
            assert len(splits) <= 1
            if splits and splits != ["train"]:
                assert f"{x} is {relation.phrase} {y}" not in shown


# Balance


@pytest.mark.parametrize("family", ["rules", "boolean", "syllogism", "ordering"])
def test_not_does_not_tell_the_label(of_family, family):
    answers = defaultdict(Counter)
    for problem in of_family(family):
        if problem.kind == "label":
            answers[bool(re.search(r"\bnot\b", problem.question))][problem.answer] += 1
    assert answers[False].total() > 100
    assert all(max(count.values()) <= 0.6 * count.total() for count in answers.values()), answers


def test_counting_negations_does_not_tell_the_label(of_family):
    answers = defaultdict(Counter)
    for problem in of_family("rules"):
        answers[len(re.findall(r"\b(?:not|No)\b", problem.question))][problem.answer] += 1
    assert len(answers) > 1
    assert all(max(count.values()) <= 0.6 * count.total() for count in answers.values()), answers
