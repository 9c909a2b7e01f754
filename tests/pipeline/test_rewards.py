"""The rewards: ours, the controls, a user's own, and their weighted sum."""

from dataclasses import replace

import pytest

from data.files import UserError
from data.problem import Completion, Problem
from pipeline.rewards import combine_rewards, load_reward, score_rewards, try_reward

PROBLEM = Problem("p6", "What is 6 + 6?", "12", "number", choices=None, family="sums", level=1)
RIGHT = "<think>\n6 + 6 = 12\n</think>\n\\boxed{12}"

# In TRL's signature, as a user would write them.
MINE = """
import numpy

def short(prompts, completions, completion_ids, **columns):
    return [1 / len(text) for text in completions]

def one(completions, **columns):
    return [1.0] * len(completions)

def by_columns(prompts, completions, completion_ids, answer, question, kind, choices, finish, problem, **columns):
    assert prompts == question == ["What is 6 + 6?"]
    assert (answer, kind, choices, finish) == (["12"], ["number"], [None], ["stop"])
    return [problem[0]["level"] + columns["completion_tokens"][0] / 100]

def by_ids(prompts, completions, completion_ids, **columns):
    return [float(len(ids)) for ids in completion_ids]

def nothing(prompts, completions, completion_ids, **columns):
    return [None for _ in completions]

def infinite(prompts, completions, completion_ids, **columns):
    return [float("nan")]

def half(prompts, completions, completion_ids, **columns):
    return [numpy.float32(0.5) for _ in completions]

def by_tokens(prompts, completions, completion_ids, completion_tokens, **columns):
    return [1 / tokens + 1 / len(ids) for tokens, ids in zip(completion_tokens, completion_ids)]

def by_extra(problem, **columns):
    assert len(problem) == 2
    return [each["extra"]["limit"] for each in problem]

def wants_log(prompts, completions, completion_ids, log_metric, **columns):
    return [0.0 for _ in completions]

def by_box(prompts, completions, completion_ids, **columns):
    return [float(len(text.split("boxed")[1])) for text in completions]

def too_few(prompts, completions, completion_ids, **columns):
    return []
"""


@pytest.fixture
def mine(tmp_path):
    """The path of a user's file of rewards."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def write(text, finish="stop", tokens=10):
    """Return a completion of the problem."""
    return Completion("p6", text, 0, tokens, 0, finish)


def score(name, *completions, ids=None):
    """Return what completions earn."""
    return score_rewards(load_reward(name), [PROBLEM] * len(completions), completions, ids)


def test_correctness_is_the_grader():
    completions = [write(RIGHT), write("\\boxed{13}"), write("<think>\n6 + 6 = 12"), write("12 or so", "length")]
    assert score("correctness", *completions) == [1.0, 0.0, 0.0, 0.0]


def test_format_looks_at_the_box_alone():
    completions = [write("<think>3</think>\\boxed{3}"), write("3"), write("<think>\\boxed{3}")]
    assert score("format", *completions) == [1.0, 0.0, 0.0]


def test_random_is_a_coin_that_falls_the_same_for_the_same_text():
    completions = [write(f"<think>{i}</think>\\boxed{{{i}}}") for i in range(200)]
    coins = score("random", *completions)

    assert coins == score("random", *completions)
    assert set(coins) == {0.0, 1.0}
    assert 70 <= sum(coins) <= 130


def test_a_users_file_may_have_dataclasses(tmp_path):
    path = tmp_path / "typed.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n\n"
        "@dataclass\nclass Weight:\n    value: float\n\n"
        "def weigh(completions, **columns):\n    return [Weight(0.5).value for _ in completions]\n"
    )
    assert score(f"{path}:weigh", write("12")) == [0.5]


def test_a_reward_of_a_users_own(mine):
    assert score(f"{mine}:short", write("1234")) == [0.25]
    assert score(f"{mine}:by_columns", write(RIGHT)) == [1.1]
    assert score(f"{mine}:by_ids", write("x"), ids=[[5, 6, 7]]) == [3.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corectness", "did you mean correctness"),
        ("none.py:short", "no file none.py"),
        ("half.py:half", "does not load"),
        ("notes.txt:half", "is no Python file"),
        ("mine.py:shrt", "has no function 'shrt'"),
        ("mine.py:MINE", "has no function 'MINE'"),
    ],
)
def test_a_reward_that_is_not_there_is_refused(mine, monkeypatch, name, message):
    monkeypatch.chdir(mine.parent)
    (mine.parent / "half.py").write_text("def half(:")
    (mine.parent / "notes.txt").write_text("half")
    mine.write_text(MINE + "\nMINE = 1\n")

    with pytest.raises(UserError, match=message):
        load_reward(name)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "it gave None; it must return finite numbers"),
        ("infinite", "it gave nan"),
        ("too_few", "a list with a number for each of 1 completions"),
    ],
)
def test_what_is_no_finite_number_is_refused(mine, function, message):
    with pytest.raises(UserError, match=message):
        score(f"{mine}:{function}", write(RIGHT))


def test_a_reward_is_tried_on_a_right_answer_a_cut_thought_and_an_empty_text(mine):
    for name in ("correctness", "format", "random", f"{mine}:half", f"{mine}:by_tokens"):
        try_reward(name, [PROBLEM])

    # A field of the user's own data set.
    problems = [replace(PROBLEM, extra={"limit": limit}) for limit in (1, 2)]
    try_reward(f"{mine}:by_extra", problems)

    with pytest.raises(UserError, match=r"fails on a right answer \(TypeError: .*'log_metric'\); fix it"):
        try_reward(f"{mine}:wants_log", [PROBLEM])
    with pytest.raises(UserError, match=r"it gave nan; .* \(on a right answer\)"):
        try_reward(f"{mine}:infinite", [PROBLEM])
    with pytest.raises(UserError, match=r"fails on a thought that is cut off \(IndexError: .*\); fix it"):
        try_reward(f"{mine}:by_box", [PROBLEM])
    with pytest.raises(UserError, match=r"fails on an empty text \(ZeroDivisionError: .*\); fix it"):
        try_reward(f"{mine}:short", [PROBLEM])


def test_combined_rewards_are_a_weighted_sum_with_its_parts(mine):
    combined = combine_rewards(["correctness", "format", f"{mine}:short"], [1.0, 0.5, -2.0])
    right, bare = combined([PROBLEM] * 2, [write(RIGHT), write("The answer is 12")])

    assert right.parts == {"correctness": 1.0, "format": 1.0, f"{mine}:short": 1 / len(RIGHT)}
    assert right.total == pytest.approx(1.5 - 2 / len(RIGHT))
    assert bare.total == pytest.approx(1.0 - 2 / 16)


def test_weights_that_are_one_together_give_one_for_a_right_answer(mine):
    combined = combine_rewards(["correctness", "format", f"{mine}:one"], [0.7, 0.2, 0.1])
    # In floats the sum of these is a little less.
    assert combined([PROBLEM], [write(RIGHT)])[0].total == 1.0


def test_combined_rewards_need_a_weight_each():
    with pytest.raises(ValueError, match="zip"):
        combine_rewards(["correctness", "format"], [1.0])
