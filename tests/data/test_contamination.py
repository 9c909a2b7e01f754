"""Contamination: every kind of planted duplicate is found; our own splits are free of them."""

from dataclasses import replace

import pytest

from data.contamination import EXACT, NEAR, TEMPLATE, find_overlaps
from data.problem import Problem

WORD = "Ann has 12 red apples in her basket. Bob gives her 30 more apples. How many apples does Ann have now?"
RULES = (
    "Every cat is a mammal. Every mammal is an animal. No animal is a stone. Some stones are red. Nothing red is cold. "
    "Tom is a cat. Every cat that is old is grey. Is Tom a stone?"
)
TRAIN = [Problem("word", WORD, "42", "number"), Problem("rules", RULES, "no", "label")]


def find(question):
    overlaps = find_overlaps(TRAIN, [Problem("b1", question, "1", "number")])
    return [(overlap.train_problem.id, overlap.problem.id, overlap.reason) for overlap in overlaps]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (WORD.upper().replace(".", " ."), EXACT),
        (WORD.replace("Ann", "Mia").replace("Bob", "Leo"), TEMPLATE),
        (WORD.replace("Ann", "Émile").replace("Bob", "Leo"), TEMPLATE),
        (WORD.replace("red apples", "green apples"), NEAR),
    ],
)
def test_a_word_problem_in_other_words(question, reason):
    assert find(question) == [("word", "b1", reason)]


def test_numbers_with_a_comma_between_thousands():
    train = [replace(TRAIN[0], question=WORD.replace("30", "30,000"))]
    other = WORD.replace("30", "30000").replace("Ann", "Mia")
    [overlap] = find_overlaps(train, [replace(TRAIN[0], question=other)])
    assert overlap.reason == TEMPLATE


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (RULES + " ", EXACT),
        (RULES.replace("Is Tom a stone?", "Is Tom also a stone?"), NEAR),
    ],
)
def test_a_question_without_numbers(question, reason):
    assert find(question) == [("rules", "b1", reason)]


@pytest.mark.parametrize(
    "question",
    [
        "12 + 30 = ?",
        WORD.replace("12", "13"),
        RULES.replace("cat", "bird").replace("mammal", "egg").replace("Tom", "Kim"),
    ],
)
def test_another_problem_is_no_overlap(question):
    assert find(question) == []


@pytest.mark.parametrize("split", ["dev", "test"])
def test_our_own_splits_do_not_overlap(committed, split):
    train = committed["arithmetic_v1", "train"] + committed["logic_v1", "train"]
    for name in ("arithmetic_v1", "logic_v1"):
        assert find_overlaps(train, committed[name, split]) == []
