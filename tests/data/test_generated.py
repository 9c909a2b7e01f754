"""Our own benchmarks: balanced, disjoint by content, and the same to the byte as the committed files."""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from data import generated
from data.contamination import find_overlaps
from data.files import UserError
from data.generated import (
    FOLDER,
    GENERATORS,
    REDRAWN,
    SIZES,
    build_first_test,
    build_split,
    list_families,
    load_committed,
    load_train_problems,
)
from data.problem import record_to_json
from data.splits import LEVELS, SPLITS, normalize_text, split_of

CASES = [(name, split) for name in GENERATORS for split in SPLITS]


def list_texts(problems):
    return {normalize_text(problem.question) for problem in problems}


def list_keys(problems):
    return {problem.extra["key"] for problem in problems}


def are_disjoint(first, second):
    return not list_texts(first) & list_texts(second) and not list_keys(first) & list_keys(second)


# Balance


@pytest.mark.parametrize(("benchmark", "split"), CASES)
def test_levels_and_families_are_balanced(committed, benchmark, split):
    problems = committed[benchmark, split]
    assert len(problems) == SIZES[benchmark][split]
    if benchmark != "sums_v1":
        assert [p.level for p in problems] == [1, 2, 3, 4, 5] * (len(problems) // 5)
    # The second test split; the first one's ids still stand in old results.
    name = "test2" if split == "test" and benchmark in REDRAWN else split
    assert [p.id for p in problems] == [f"{benchmark}-{name}-{n:04d}" for n in range(1, len(problems) + 1)]

    for level in LEVELS:
        families = Counter(p.family for p in problems if p.level == level)
        assert set(families) == set(list_families(benchmark, level))
        assert max(families.values()) - min(families.values()) <= 1
    assert min(Counter(p.family for p in problems[:25]).values()) >= 5


@pytest.mark.parametrize("split", SPLITS)
def test_a_level_with_few_problems_has_all_of_them_and_the_others_make_up_for_it(committed, split):
    # The sums and differences of two numbers from 1 to 9 whose result is at least 0.
    pairs = itertools.product(range(1, 10), repeat=2)
    texts = [text for a, b in pairs for text in (f"{a} + {b}", f"{a} - {b}") if a >= b or "+" in text]
    there_are = {text for text in texts if split_of(f"sum: {' '.join(sorted(text.split()[::2]))}") == split}

    problems = committed["sums_v1", split]
    assert {f"What is {text}?" for text in there_are} == {p.question for p in problems if p.level == 1}

    counts = Counter(p.level for p in problems)
    assert max(counts[level] for level in LEVELS[1:]) - min(counts[level] for level in LEVELS[1:]) <= 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("benchmark", ["logic_v1", "booleans_v1"])
def test_labels_are_balanced(committed, benchmark, split):
    labels = defaultdict(Counter)
    for problem in committed[benchmark, split]:
        if problem.kind == "label":
            assert problem.answer in problem.choices
            labels[problem.family][problem.answer] += 1

    for family, count in labels.items():
        limit = 0.55 if count.total() >= 50 else 0.56
        assert max(count.values()) <= limit * count.total(), family


def test_problems_are_short(all_problems):
    for problem in all_problems:
        assert len(problem.question.split()) <= 45
        assert len(problem.rationale.split()) <= 45


# Splits


@pytest.mark.parametrize("benchmark", GENERATORS)
def test_splits_are_disjoint(committed, benchmark):
    for a, b in itertools.combinations(SPLITS, 2):
        assert are_disjoint(committed[benchmark, a], committed[benchmark, b])

    for split in SPLITS:
        problems = committed[benchmark, split]
        assert len(list_texts(problems)) == len(problems)
        assert {split_of(key) for key in list_keys(problems)} == {split}


def test_seeds_cannot_make_splits_overlap():
    train = [problem for seed in range(3) for problem in build_split("arithmetic_v1", "train", 100, seed)]
    test = [problem for seed in range(3) for problem in build_split("arithmetic_v1", "test", 100, seed)]
    assert len({problem.question for problem in train}) > 250
    assert are_disjoint(train, test)


@pytest.mark.parametrize("benchmark", REDRAWN)
def test_the_test_split_repeats_none_of_the_first_one(committed, benchmark):
    first = build_first_test(benchmark)
    second = committed[benchmark, "test"]
    assert find_overlaps(first, second) == []
    assert {split_of(key) for key in list_keys(first)} == {"test"}

    # Test's share has no further facts for analogies.
    common = list_keys(first) & list_keys(second)
    assert {problem.family for problem in second if problem.extra["key"] in common} <= {"analogy"}


def test_a_draw_that_is_stuck_says_so(monkeypatch):
    one = build_split("arithmetic_v1", "test", 5, 1)[0]
    monkeypatch.setattr(generated, "MAX_DRAWS", 50)
    monkeypatch.setattr(generated, "draw_problem", lambda benchmark, rng, level, family: one)
    with pytest.raises(RuntimeError, match="arithmetic_v1 test: only 1 problems; ask for fewer than 10"):
        build_split("arithmetic_v1", "test", 10, 1)


# Files


def test_the_committed_files_are_what_the_code_builds(root, tmp_path):
    # With a fixed hash seed, an order that depends on the seed would show only by chance.
    environment = os.environ | {"PYTHONHASHSEED": "random"}
    command = [sys.executable, "-m", "data.datasets", "--committed", str(tmp_path)]
    subprocess.run(command, cwd=root, env=environment, check=True)

    names = sorted(path.name for path in FOLDER.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 13
    for name in names:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_checksums_are_those_of_the_files():
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 12
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_a_changed_or_missing_file_is_refused(tmp_path, monkeypatch):
    copy = shutil.copytree(FOLDER, tmp_path / "benchmarks")
    monkeypatch.setattr(generated, "FOLDER", copy)
    assert len(load_committed("logic_v1", "test")) == 500

    path = copy / "logic_v1.test.jsonl"
    path.write_text(path.read_text().replace('"answer": "yes"', '"answer": "no"', 1))
    with pytest.raises(UserError, match=r"logic_v1\.test\.jsonl: does not match its checksum; restore it with `git"):
        load_committed("logic_v1", "test")

    path.unlink()
    with pytest.raises(UserError, match="no such file; restore it"):
        load_committed("logic_v1", "test")


# Train problems beyond the committed ones


@pytest.mark.parametrize(
    ("benchmark", "digest"),
    [
        ("arithmetic_v1", "48845021"),
        ("logic_v1", "a0cc7c9b"),
        ("sums_v1", "69b90698"),
        ("booleans_v1", "30678d6a"),
    ],
)
def test_more_train_problems_repeat_nothing_and_contaminate_nothing(committed, benchmark, digest):
    problems = load_train_problems(benchmark, 5000)
    assert problems[:2000] == committed[benchmark, "train"] == load_train_problems(benchmark, 2000)
    assert problems[:3000] == load_train_problems(benchmark, 3000)

    assert len(list_texts(problems)) == len({problem.id for problem in problems}) == len(problems) == 5000
    assert {split_of(key) for key in list_keys(problems)} == {"train"}

    held_out = committed[benchmark, "dev"] + committed[benchmark, "test"] + build_first_test(benchmark)
    assert are_disjoint(problems, held_out)
    assert find_overlaps(problems, held_out) == []

    levels = Counter(problem.level for problem in problems[2000:])
    assert min(levels[level] for level in (2, 3, 4, 5)) > 400
    # The committed problems are all sums of level 1 that there are.
    assert (levels[1] > 300) == (benchmark != "sums_v1")

    # A run names its problems by number: what lies beyond the committed files may change only with this line.
    lines = "".join(json.dumps(record_to_json(problem), sort_keys=True) for problem in problems)
    assert hashlib.sha256(lines.encode()).hexdigest()[:8] == digest


def test_ids_go_on_beyond_the_committed_ones():
    problem = load_train_problems("logic_v1", 2001)[-1]
    assert re.fullmatch(r"logic_v1-train-2001", problem.id)
