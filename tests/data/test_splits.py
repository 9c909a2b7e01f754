"""Splits by content, and balanced orders."""

from collections import Counter

import pytest

from data.generated import list_families
from data.splits import LEVELS, interleave, normalize_text, split_of, take_stratified


def test_shares_are_60_15_25():
    counts = Counter(split_of(f"key {number}") for number in range(4000))
    assert abs(counts["train"] / 4000 - 0.60) < 0.03
    assert abs(counts["dev"] / 4000 - 0.15) < 0.03
    assert abs(counts["test"] / 4000 - 0.25) < 0.03


def test_a_key_stays_in_its_split_for_good():
    assert [split_of(key) for key in ("expr:(5+7)", "a", "b", "d")] == ["train", "test", "dev", "train"]


def test_normalize_text():
    assert normalize_text("  What is  (7+5) * 3.5?") == normalize_text("what is ( 7 + 5 ) * 3.5")
    assert normalize_text("7 + 5") != normalize_text("7 - 5")
    assert normalize_text("7 × 5") == normalize_text("7 * 5") != normalize_text("7 ÷ 5")
    assert normalize_text("It's 3.5.") == "its 3.5"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("What is 2^10?", "What is 210?"),
        ("What is √16?", "What is 16?"),
        ("What is |3 - 5|?", "What is 3 - 5?"),
        ("What is 5!?", "What is 5?"),
        ("What is (1 + 2)!?", "What is (1 + 2)?"),
        ("What is the mean of 1,2,3?", "What is the mean of 12,3?"),
        ("What is the mean of 1,2,3?", "What is the mean of 123?"),
    ],
)
def test_two_questions_are_not_one_text(text, other):
    assert normalize_text(text) != normalize_text(other)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("What is 2^10?", "what is 2 ^ 10"),
        ("A mean of 1,2,3.", "a mean of 1, 2, 3"),
        ("1,234,567 pens, 1,000 cups", "1234567 pens 1000 cups"),
        ("Wow! What is 5?", "wow what is 5"),
    ],
)
def test_two_ways_to_write_a_question_are_one_text(text, other):
    assert normalize_text(text) == normalize_text(other)


def test_stratified_whatever_the_order(committed):
    problems = committed["logic_v1", "test"]
    by_level = sorted(problems, key=lambda problem: (problem.level, problem.family))

    for rows in (problems, by_level, problems[::-1]):
        taken = take_stratified(rows, 25)
        assert Counter(problem.level for problem in taken) == dict.fromkeys(LEVELS, 5)
        assert Counter(problem.family for problem in taken) == dict.fromkeys(list_families("logic_v1", 1), 5)
        assert taken == [problem for problem in rows if problem in taken]
        assert len({problem.family for problem in take_stratified(rows, 5)}) == 5


def test_a_larger_take_holds_a_smaller_one(committed):
    problems = committed["logic_v1", "test"][::-1]
    small = {problem.id for problem in take_stratified(problems, 40)}
    assert small < {problem.id for problem in take_stratified(problems, 41)}


def test_a_committed_file_is_in_this_order(committed):
    problems = committed["logic_v1", "test"]
    assert interleave(problems) == problems
    assert take_stratified(problems, 7) == problems[:7]
    assert take_stratified(problems, 9999) == problems


def test_levels_of_uneven_size(committed):
    problems = committed["logic_v1", "test"]
    first = [problem for problem in problems if problem.level == 1][:2]
    second = [problem for problem in problems if problem.level == 2]
    assert Counter(problem.level for problem in take_stratified(first + second, 10)) == {1: 2, 2: 8}
