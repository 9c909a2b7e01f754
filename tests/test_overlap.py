"""Leakage: every kind of planted duplicate is found and stops a run; our own splits are free of them."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data.build import load
from data.overlap import EXACT, NEAR, TEMPLATE, overlaps
from data.records import BadInput, Problem, write_records
from data.splits import BENCHMARKS
from pipeline import recipe as recipes
from pipeline import runs
from pipeline.problems import every_train_problem, sft_problems, train_problems

WORD = "Ann has 12 red apples in her basket. Bob gives her 30 more apples. How many apples does Ann have now?"
RULES = (
    "Every cat is a mammal. Every mammal is an animal. No animal is a stone. Some stones are red. Nothing red is cold. "
    "Tom is a cat. Every cat that is old is grey. Is Tom a stone?"
)
PLANTED = {
    "12 + 30 = ?": None,
    WORD.upper().replace(".", " ."): EXACT,
    WORD.replace("Ann", "Mia").replace("Bob", "Leo"): TEMPLATE,
    WORD.replace("red apples", "green apples"): NEAR,
    WORD.replace("12", "13"): None,  # other numbers are another problem
    RULES + " ": EXACT,
    RULES.replace("Is Tom a stone?", "Is Tom also a stone?"): NEAR,
    RULES.replace("cat", "bird").replace("mammal", "egg").replace("Tom", "Kim"): None,
}


@pytest.mark.parametrize(("question", "why"), PLANTED.items())
def test_each_kind_of_duplicate_is_found(question, why):
    train = [Problem("t1", WORD, "42", "number"), Problem("t2", RULES, "no", "label")]
    found = overlaps(train, [Problem("b1", question, "1", "number")])
    assert [(a.id, b.id, reason) for a, b, reason in found] == (
        [("t1" if "apples" in question.lower() else "t2", "b1", why)] if why else []
    )


@pytest.mark.parametrize("split", ["dev", "test"])
def test_our_own_splits_do_not_overlap(split):
    train = [problem for name in BENCHMARKS for problem in load(name, "train")]
    assert [pair for name in BENCHMARKS for pair in overlaps(train, load(name, split))] == []


def test_a_planted_duplicate_stops_a_run_before_anything_is_written(tmp_path):
    [known] = load("arithmetic_v1", "train")[:1]
    file = tmp_path / "mine.jsonl"
    write_records(file, [*load("arithmetic_v1", "test")[:5], replace(known, id="planted")])
    command = [sys.executable, "-m", "pipeline", "plain", "--runs", str(tmp_path / "runs"), "--benchmark", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"planted has {EXACT} as {known.id}" in done.stderr and "--allow-overlap" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_overlap_that_is_allowed_is_named(tmp_path):
    [known] = load("arithmetic_v1", "train")[:1]
    planted = runs.Benchmark("mine", [replace(known, id="planted")], {}, "sha")
    train = load("arithmetic_v1", "train")
    with pytest.raises(BadInput, match="given away by the train split"):
        runs.overlaps([planted], False, train)
    assert runs.overlaps([planted], True, train) == {"mine": [(known.id, "planted", EXACT)]}
    assert runs.overlaps([planted], False, train[1:]) == {"mine": []}


def test_a_prompted_row_says_what_its_exemplars_give_away():
    from pipeline import stages

    shown, other = (load("arithmetic_v1", "train")[i] for i in (0, 50))
    mine = runs.Benchmark("mine", [replace(shown, id="a"), replace(other, id="b")], {}, "sha")
    run = SimpleNamespace(overlaps=runs.overlaps([mine], True, load("arithmetic_v1", "train")))
    assert [stages.overlapping(run, "plain", mine, shots) for shots in (0, 4)] == [0, 1]
    assert stages.overlapping(run, "sft", mine, 0) == 2


def test_problems_beyond_the_committed_ones_are_looked_for_too(tmp_path):
    recipe = recipes.load("cpu", ["sft.logic=2100"])
    learnt = every_train_problem(recipe)
    beyond = sft_problems(recipe.sft)[-1]
    assert beyond.id == "logic_v1-train-2100" and beyond in learnt
    planted = runs.Benchmark("mine", [replace(beyond, id="planted")], {}, "sha")
    with pytest.raises(BadInput, match=f"planted has the same text as {beyond.id}"):
        runs.overlaps([planted], False, learnt)
    # rl takes those that sft has not seen, and they are among those looked for
    fresh = train_problems(recipe, 50, 60, [])["logic_v1"]
    assert len(fresh) == 60 and not set(p.id for p in fresh) & set(p.id for p in sft_problems(recipe.sft))
    assert all(problem in learnt for problem in fresh)
