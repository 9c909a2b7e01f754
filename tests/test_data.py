"""Every committed answer is worked out again here, from the question's text and without the generators."""

import ast
import hashlib
import itertools
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import pytest

from data import build as building
from data import logic, splits
from data.overlap import overlaps
from data.records import BadInput, Problem, read_problems, record_json, split_of

ROOT = Path(__file__).parent.parent
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
FILES = {(b, s): building.load(b, s) for b in splits.BENCHMARKS for s in splits.SPLITS}
EVERYTHING = [problem for problems in FILES.values() for problem in problems]


def of(family: str) -> list[Problem]:
    found = [problem for problem in EVERYTHING if problem.family == family]
    assert len(found) > 400
    return found


def arithmetic_value(text: str) -> Fraction:
    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(node.op)]
            return OPERATIONS[symbol](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return Fraction(node.value)

    return walk(ast.parse(text, mode="eval").body)


# Answers: arithmetic


def test_expressions():
    for problem in of("expression"):
        text = re.search(r"\(*\d[\d\s+\-*/()]*", problem.question).group().strip()
        assert arithmetic_value(text) == int(problem.answer), problem.question


def test_chains():
    verbs = {"add": "+", "increase the number by": "+", "subtract": "-", "take away": "-"}
    verbs |= {"multiply by": "*", "divide by": "/"}
    for problem in of("chain"):
        value, *steps = re.findall(r"(" + "|".join(verbs) + r"|^\w+(?: with)?) (\d+)", problem.question, re.IGNORECASE)
        assert len(steps) == {3: 2, 4: 3, 5: 4}[problem.level]
        result = Fraction(value[1])
        for verb, number in steps:
            result = OPERATIONS[verbs[verb.lower()]](result, int(number))
        assert result == int(problem.answer), problem.question


def test_programs_and_traces_of_arithmetic():
    for problem in [*of("expression"), *of("chain"), *of("word")]:
        numbers = Counter(map(int, re.findall(r"\d+", problem.question.replace("twice", "2 times"))))
        results = []
        for op, left, right, result in problem.extra["program"]:
            assert OPERATIONS[op](Fraction(left), right) == result >= 0, problem
            for operand in (left, right):
                if numbers[operand]:
                    numbers[operand] -= 1
                else:
                    results.remove(operand)
            results.append(result)
        assert results == [int(problem.answer)] and not numbers.total(), problem
        for line in problem.rationale.split("\n"):
            label, _, equation = line.rpartition(": ")
            left, result = equation.split(" = ")
            assert arithmetic_value(left) == int(result) and len(left.split()) == 3, line
            assert len(label.split()) <= 4
        assert result == problem.answer
        assert len(problem.extra["program"]) == {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}[problem.level]


def test_numbers_stay_small_and_products_are_split():
    for problem in EVERYTHING:
        assert len(problem.question.split()) <= 45 and len(problem.rationale.split()) <= 45
        if problem.kind == "number":
            assert 0 <= int(problem.answer) <= 9999
            assert not (problem.level == 1 and max(map(int, re.findall(r"\d+", problem.question))) > 100)
            for a, b in re.findall(r"(\d+) \* (\d+) =", problem.rationale):
                small, large = sorted((int(a.rstrip("0") or 0), int(b.rstrip("0") or 0)))
                assert large < 10 or small <= 2, problem.rationale


def test_word_problems_vary():
    templates = defaultdict(set)
    for problem in of("word"):
        templates[len(problem.extra["program"])].add(problem.extra["key"].split(":")[1])
    assert {steps: len(found) >= 20 for steps, found in templates.items()} == dict.fromkeys((1, 2, 3, 4), True)


# Answers: logic


def test_boolean():
    outer = defaultdict(Counter)
    for problem in of("boolean"):
        text = re.search(r"(?:(?:What is(?: the value of)?|what is the value of|Evaluate|truth value of) )(.*)[.?]$",
                         problem.question).group(1)  # fmt: skip
        tree = ast.parse(text, mode="eval").body
        assert isinstance(tree, (ast.BoolOp, ast.UnaryOp))
        operators = sum(
            len(n.values) - 1 if isinstance(n, ast.BoolOp) else isinstance(n, ast.UnaryOp) for n in ast.walk(tree)
        )
        assert operators == problem.level
        assert str(eval(compile(ast.Expression(tree), "", "eval"), {"__builtins__": {}})) == problem.answer
        outer[type(getattr(tree, "op", None)).__name__][problem.answer] += 1
        for line in problem.rationale.split("\n"):
            left, value = line.split(" = ")
            assert str(eval(left, {"__builtins__": {}})) == value, line
        assert value == problem.answer
    assert set(outer) == {"And", "Or", "Not"}
    assert all(max(count.values()) <= 0.6 * count.total() for count in outer.values()), outer


def test_rules():
    for problem in of("rules"):
        *sentences, question = re.findall(r"[^.?]+[.?]", problem.question)
        sentences = [sentence.strip() for sentence in sentences]
        name, known = re.fullmatch(r"(\w+) is an? (\w+)\.", sentences[0]).groups()
        rules = []
        for sentence in sentences[1:]:
            quantifier, words = sentence.split()[0], sentence.rstrip(".").split()[1:]
            subject, target = words[0], words[-1]
            if quantifier == "All" or words[1] == "are":
                subject, target = subject.removesuffix("s"), target.removesuffix("s") if quantifier == "All" else target
            rules.append((subject, quantifier != "No", target))
        facts = {(known, True)}
        while more := {(t, p) for s, p, t in rules if (s, True) in facts} - facts:
            facts |= more
        negated, asked = re.search(rf"that {name} is (not )?(\w+)\?", question).groups()
        asked = asked if (asked, True) in facts or (asked, False) in facts else asked.removesuffix("s")
        assert ((asked, True) in facts) != ((asked, False) in facts), problem.question
        assert problem.answer == ("yes" if (asked, not negated) in facts else "no"), problem.question
        *steps, conclusion = problem.rationale.split("\n")
        assert len(steps) == problem.level + 1 and set(steps) <= set(sentences)
        assert conclusion == f"So {name} is {'' if (asked, True) in facts else 'not '}{asked}."


MORE = ("taller", "older", "faster", "heavier", "richer", "stronger", "louder")
MOST = ("tallest", "oldest", "fastest", "heaviest", "richest", "strongest", "loudest")


def test_orderings():
    for problem in of("ordering"):
        *premises, question = re.findall(r"[^.?]+[.?]", problem.question)
        pairs = [re.search(r"(\w+) is (\w+) than (\w+)", premise).groups() for premise in premises]
        above = [(a, b) if word in MORE else (b, a) for a, word, b in pairs]
        names = {name for pair in above for name in pair}
        assert len(names) == problem.level + 1
        orders = [row for row in itertools.permutations(names) if all(row.index(a) < row.index(b) for a, b in above)]
        assert len(orders) == 1, problem.question
        (row,) = orders
        if problem.kind == "label":
            a, word, b = re.search(r"Is (\w+) (\w+) than (\w+)\?", question).groups()
            answer = "yes" if (row.index(a) < row.index(b)) == (word in MORE) else "no"
        else:
            second, word = re.search(r"Who is (?:the )?(second )?(\w+)\?", question).groups()
            answer = (row if word in MORE + MOST else row[::-1])[bool(second)]
            assert set(problem.choices) == names
        assert problem.answer == answer, problem.question
        assert problem.rationale.split("\n")[0].split(": ")[1].split(" > ") == list(row)


def statement(text: str) -> tuple[str, bool, str, str]:
    match = re.search(r"(?i)(all|no|some) (\w+?)s are (not )?(\w+?)s\b", text)
    assert match, text
    quantifier, x, negated, y = match.groups()
    return quantifier.lower(), bool(negated), x, y


def true_in(claim: tuple[str, bool, str, str], world: tuple[frozenset[str], ...]) -> bool:
    quantifier, negated, x, y = claim
    among = [(y in thing) != negated for thing in world if x in thing]
    return {"all": all(among), "no": not any(among), "some": any(among)}[quantifier]


def test_syllogisms():
    figures = Counter()
    for problem in of("syllogism"):
        texts = [
            text for text in re.findall(r"[^.?:]+[.?:]", problem.question) if re.search(r"(?i)\b(all|no|some) ", text)
        ]
        claims = [statement(text) for text in texts]
        assert len(claims) == 3, problem.question
        terms = sorted({term for claim in claims for term in claim[2:]})
        kinds = [frozenset(kind) for n in range(4) for kind in itertools.combinations(terms, n)]
        worlds = [world for n in range(9) for world in itertools.combinations(kinds, n)]
        assert len(worlds) == 256
        refuted = [w for w in worlds if true_in(claims[0], w) and true_in(claims[1], w) and not true_in(claims[2], w)]
        assert problem.answer == ("invalid" if refuted else "valid"), problem.question
        # nobody may call it valid by assuming that the things spoken of exist
        assert not refuted or any(set(terms) <= set().union(*world) for world in refuted), problem.question
        figures[problem.level, problem.answer] += 1
        lines = problem.rationale.split("\n")
        if refuted:
            supposed = [re.findall(r"(not )?an? (\w+)", line) for line in lines[:-1]]
            assert tuple(frozenset(t for no, t in facts if not no) for facts in supposed) in {
                order for world in refuted for order in itertools.permutations(world)
            }, problem.rationale
        else:
            given = {text.strip().rstrip(".") for text in texts}
            assert all(line.split(", so ")[0] in given for line in lines if ", so " in line), problem.rationale


def test_analogies():
    places = defaultdict(Counter)
    for problem in of("analogy"):
        a, b, c, d, listed = re.search(
            r"(\w+) is to (\w+) as (\w+) is to (\w+)[.?] Choose from: (.*)\.$", problem.question
        ).groups()
        assert tuple(listed.split(", ")) == problem.choices and len(set(problem.choices)) == len(problem.choices)
        blank = "___" if "___" in (c, d) else "what"
        fitting = []
        for relation in logic.RELATIONS:
            for turn in (1, -1):
                pairs = {pair[:2][::turn] for pair in relation.pairs}
                if (a, b) in pairs or (a[0].lower() + a[1:], b) in pairs:
                    fitting += [w for w in problem.choices if (w if c == blank else c, w if d == blank else d) in pairs]
        assert set(fitting) == {problem.answer}, problem.question
        places[problem.level][problem.choices.index(problem.answer)] += 1
    assert all(max(count.values()) < 0.3 * count.total() for count in places.values()), places


def test_the_relations_name_one_partner_each():
    assert len(logic.RELATIONS) >= 12
    for relation in logic.RELATIONS:
        assert len(relation.pairs) >= 8
        words = [word for pair in relation.pairs for word in pair[:2]]
        assert len(set(words)) == len(words), relation.phrase
        assert not {pair[2] for pair in relation.pairs} & set(words), relation.phrase


# Balance


@pytest.mark.parametrize(("benchmark", "split"), FILES)
def test_levels_families_and_labels_are_balanced(benchmark, split):
    problems = FILES[benchmark, split]
    assert [p.level for p in problems] == [1, 2, 3, 4, 5] * building.PER_LEVEL[split]
    assert [p.id for p in problems] == [f"{benchmark}-{split}-{n:04d}" for n in range(1, len(problems) + 1)]
    for level in splits.LEVELS:
        families = Counter(p.family for p in problems if p.level == level)
        assert set(families) == set(splits.BENCHMARKS[benchmark].families(level))
        assert max(families.values()) - min(families.values()) <= 1
    prefix = Counter(p.family for p in problems[:25])
    assert min(prefix.values()) >= 5
    labels = defaultdict(Counter)
    for problem in problems:
        if problem.kind == "label":
            assert problem.answer in problem.choices
            labels[problem.family][problem.answer] += 1
    assert all(max(count.values()) <= 0.56 * count.total() for count in labels.values()), labels
    assert all(max(count.values()) <= 0.55 * count.total() for count in labels.values() if count.total() >= 50), labels


def test_not_does_not_tell_the_label():
    said = defaultdict(Counter)
    for problem in [p for p in EVERYTHING if p.kind == "label"]:
        said[problem.family, bool(re.search(r"\bnot\b", problem.question))][problem.answer] += 1
        if problem.family == "rules":
            said["negations", len(re.findall(r"\b(?:not|No)\b", problem.question))][problem.answer] += 1
    assert said["rules", True].total() > 200 and said["boolean", True].total() > 100
    assert all(max(count.values()) <= 0.6 * count.total() for count in said.values()), said


# Splits


@pytest.mark.parametrize("benchmark", splits.BENCHMARKS)
def test_splits_are_disjoint(benchmark):
    for a, b in itertools.combinations(splits.SPLITS, 2):
        assert splits.check_disjoint(FILES[benchmark, a], FILES[benchmark, b]) == []
    for split in splits.SPLITS:
        problems = FILES[benchmark, split]
        assert len({splits.normalise(p.question) for p in problems}) == len(problems)
        assert {splits.split_of(p.extra["key"]) for p in problems} == {split}


def test_seeds_cannot_make_splits_overlap():
    train = [p for seed in range(3) for p in splits.build("arithmetic_v1", "train", 20, seed)]
    test = [p for seed in range(3) for p in splits.build("arithmetic_v1", "test", 20, seed)]
    assert len({p.question for p in train}) > 250
    assert splits.check_disjoint(train, test) == []


def problem_of(question: str, key: str | None = None) -> Problem:
    return Problem(question, question, "1", "number", extra={"key": key} if key else {})


def test_check_disjoint_finds_the_same_text_and_the_same_sum():
    a = [problem_of("What is 7 + 5?", "expr:(5+7)"), problem_of("Who?")]
    assert len(splits.check_disjoint(a, [problem_of("Find 5 + 7.", "expr:(5+7)")])) == 1
    assert [pair[0].question for pair in splits.check_disjoint(a, [problem_of("  who ")])] == ["Who?"]
    assert splits.check_disjoint(a, [problem_of("What is 7 - 5?", "expr:(7-5)")]) == []


def test_normalise():
    assert splits.normalise("  What is  (7+5) * 3.5?") == splits.normalise("what is ( 7 + 5 ) * 3.5")
    assert splits.normalise("7 + 5") != splits.normalise("7 - 5")
    assert splits.normalise("It's 3.5.") == "its 3.5"


def test_a_sum_has_one_key_in_any_order_and_wording():
    keys = defaultdict(set)
    for problem in of("expression"):
        if problem.level == 1:
            a, op, b = re.search(r"(\d+) ([+*/-]) (\d+)", problem.question).groups()
            keys[op, *(sorted((a, b)) if op in "+*" else (a, b))].add(problem.extra["key"])
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == len(keys) > 100


def test_a_draw_that_is_stuck_says_so(monkeypatch):
    one = splits.build("arithmetic_v1", "test", 1, 1)[0]
    monkeypatch.setattr(splits, "MOST_DRAWS", 50)
    monkeypatch.setattr(splits.BENCHMARKS["arithmetic_v1"], "make", lambda rng, level, family: one)
    with pytest.raises(RuntimeError, match="no new word problem of level 1 in 50 draws"):
        splits.build("arithmetic_v1", "test", 2, 1)


def test_take_is_stratified_whatever_the_order():
    problems = FILES["logic_v1", "test"]
    for rows in (problems, sorted(problems, key=lambda p: (p.level, p.family)), problems[::-1]):
        taken = splits.take(rows, 25)
        assert Counter(p.level for p in taken) == dict.fromkeys(splits.LEVELS, 5)
        assert Counter(p.family for p in taken) == dict.fromkeys(logic.families(1), 5)
        assert taken == splits.take(rows, 25) == [p for p in rows if p in taken]
        assert len({p.family for p in splits.take(rows, 5)}) == 5
    assert splits.take(problems, 7) == problems[:7]
    assert splits.take(problems, 500) == splits.take(problems, 9999) == problems
    uneven = [p for p in problems if p.level == 1][:2] + [p for p in problems if p.level == 2]
    assert Counter(p.level for p in splits.take(uneven, 10)) == {1: 2, 2: 8}


def test_no_split_writes_out_what_another_asks():
    """An analogy's fact is asked in one split, and train shows none that dev or test asks."""
    asked = {split: {p.extra["key"] for p in analogies(split)} for split in splits.SPLITS}
    assert all(len(keys) >= 20 for keys in asked.values())
    shown = {line for p in analogies("train") for line in (p.rationale or "").splitlines()}
    for relation in logic.RELATIONS:
        for x, y, _ in relation.pairs:
            elsewhere = [s for s in splits.SPLITS if f"analogy: {relation.phrase}: {x} {y}" in asked[s]]
            assert len(elsewhere) <= 1
            assert elsewhere in ([], ["train"]) or f"{x} is {relation.phrase} {y}" not in shown


def analogies(split):
    return [p for p in building.load("logic_v1", split) if p.family == "analogy"]


# Files


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_committed_files_are_what_the_code_builds(tmp_path, hash_seed):
    script = f"import pathlib; from data.build import write_committed; write_committed(pathlib.Path({str(tmp_path)!r}))"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    names = sorted(path.name for path in building.FOLDER.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir()) and len(names) == 7
    for name in names:
        assert (tmp_path / name).read_bytes() == (building.FOLDER / name).read_bytes(), name


def test_checksums_hold_and_a_changed_file_is_refused(tmp_path, monkeypatch):
    for line in (building.FOLDER / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        content = (building.FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert len(content) < 1_500_000
    copy = shutil.copytree(building.FOLDER, tmp_path / "benchmarks")
    monkeypatch.setattr(building, "FOLDER", copy)
    file = copy / "logic_v1.test.jsonl"
    assert len(building.load("logic_v1", "test")) == 500
    file.write_text(file.read_text().replace('"answer": "yes"', '"answer": "no"', 1))
    with pytest.raises(BadInput, match=r"logic_v1\.test\.jsonl: does not match its checksum; restore it with `git"):
        building.load("logic_v1", "test")
    file.unlink()
    with pytest.raises(BadInput, match="no such file; restore it"):
        building.load("logic_v1", "test")


def test_the_command_line(tmp_path, capsys):
    out = tmp_path / "new" / "dev.jsonl"
    assert building.main(["--split", "dev", "--out", str(out)]) == 0
    assert read_problems(out) == FILES["arithmetic_v1", "dev"] + FILES["logic_v1", "dev"]
    assert building.main(["--split", "dev", "--out", str(out), "--benchmark", "logic_v1"]) == 0
    assert read_problems(out) == FILES["logic_v1", "dev"]
    assert building.main(["--split", "dev", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path}: cannot be written (it is a folder); name another place\n"
    for wrong in ([], ["--split", "dev"], ["--split", "exam", "--out", "x"], ["--committed", "--split", "dev"]):
        assert building.main(wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


GOOD = {"id": "a", "question": "What is 1 + 1?", "answer": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON list, not an object"),
        (json.dumps(GOOD), "already at"),
        (json.dumps({"id": "b", "question": "Why?"}), "'answer' is missing"),
        (json.dumps(GOOD | {"id": "b", "question": " "}), "'question' is missing, empty"),
        (json.dumps(GOOD | {"id": "b", "kind": "essay"}), "kind 'essay' is unknown"),
        (json.dumps(GOOD | {"id": "b", "choices": "yes"}), "'choices' must be a list"),
        (json.dumps(GOOD | {"id": "b", "level": "hard"}), "'level' must be a whole number"),
        ('{"id": "b", "question": "q", "answer": NaN}', "not finite"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        read_problems(file)
    assert str(caught.value).startswith(f"{file}:3: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("benchmark", splits.BENCHMARKS)
def test_more_train_problems_than_are_committed_repeat_nothing_and_give_nothing_away(benchmark):
    committed, many = FILES[benchmark, "train"], building.train(benchmark, 5000)
    assert (
        many[:2000] == committed == building.train(benchmark, 2000) and building.train(benchmark, 3000) == many[:3000]
    )
    assert len({p.id for p in many}) == len({splits.normalise(p.question) for p in many}) == len(many) == 5000
    assert all(p.extra["key"] and split_of(p.extra["key"]) == "train" for p in many)
    held = [p for split in ("dev", "test") for p in FILES[benchmark, split]]
    assert splits.check_disjoint(many, held) == [] and overlaps(many, held) == []
    levels = Counter(p.level for p in many[2000:])
    assert set(levels) == set(splits.LEVELS) and min(levels.values()) > 400
    # rl's inputs name only the committed files: what is made beyond them may change only together with this line.
    lines = "".join(json.dumps(record_json(problem), sort_keys=True) for problem in many)
    assert (
        hashlib.sha256(lines.encode()).hexdigest()[:8]
        == {"arithmetic_v1": "48845021", "logic_v1": "a0cc7c9b"}[benchmark]
    )
