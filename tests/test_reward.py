"""The rewards: those of controls, what a recipe adds and takes away, and a user's own."""

import re
from dataclasses import replace

import pytest
from conftest import ROOT
from test_rl import PAID, PROBLEMS, SETTINGS, answer

from data.records import BadInput, Completion, Problem
from pipeline import reward
from pipeline.recipe import RlSettings


def test_the_rewards_of_controls_do_not_look_at_the_answer():
    texts = [answer(f"<think>{i}</think>\\boxed{{{i}}}") for i in range(200)]
    coins = [reward.coin(PROBLEMS[0], text) for text in texts]
    assert coins == [reward.coin(PROBLEMS[0], text) for text in texts] and 70 <= sum(coins) <= 130
    for text, boxed in ((texts[3], 1.0), (answer("3"), 0.0), (answer("<think>\\boxed{3}"), 0.0)):
        assert reward.form(PROBLEMS[0], text) == boxed


def test_a_reward_is_shaped_by_what_the_recipe_adds_and_takes_away():
    good, slip = "<think>\n6 + 6 = 12\n</think>\n\\boxed{12}", "<think>\n6 + 6 = 13\n</think>\n\\boxed{12}"
    bare = "The answer is 12"

    def earns(text, tokens=10, **settings):
        return reward.reward_of(replace(PAID, max_tokens=100, **settings))(PROBLEMS[0], answer(text, tokens=tokens))

    assert [earns(text) for text in (good, slip, bare)] == [1.0, 1.0, 1.0]
    assert [earns(text, format_bonus=0.1) for text in (good, bare)] == [1.1, 1.0]
    assert [earns(text, wrong_step_penalty=0.5) for text in (good, slip)] == [1.0, 0.5]
    assert [earns(good, tokens, overlong=20) for tokens in (80, 90, 100)] == [1.0, 0.5, 0.0]


def test_a_reward_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def short(problem, completion):\n    return 1 / len(completion.text)\n\ndef bad(p, c):\n    return None\n"
    )
    (tmp_path / "half.py").write_text("def half(:")
    assert reward.reward_of(replace(SETTINGS, reward=f"{file}:short"))(PROBLEMS[0], answer("1234")) == 0.25
    for spec, says in (
        (f"{file}:shrt", "has no function 'shrt'"),
        (f"{tmp_path}/none.py:short", "no file"),
        ("corectness", "did you mean correctness"),
        (f"{tmp_path}/half.py:half", "does not load"),
    ):
        with pytest.raises(BadInput, match=says):
            reward.reward_of(replace(SETTINGS, reward=spec))
    with pytest.raises(BadInput, match="it gave None for p6"):
        reward.reward_of(replace(SETTINGS, reward=f"{file}:bad"))(PROBLEMS[0], answer("1"))


def test_the_reward_in_the_documents_works(tmp_path):
    text = (ROOT / "recipes" / "README.md").read_text()
    [code] = re.findall(r"```python\n(# brief\.py.*?)```", text, re.S)
    assert len(code.splitlines()) <= 15
    (tmp_path / "brief.py").write_text(code)
    brief = reward.own(f"{tmp_path / 'brief.py'}:brief")
    right = "<think>\n6 + 6 = 12\n</think>\n\\boxed{12}"
    assert brief(PROBLEMS[0], Completion("p6", right, 0, 50, 5, "stop")) == 0.9
    assert brief(PROBLEMS[0], answer("\\boxed{13}")) == 0.0


def test_not_thinking_gains_where_the_recipe_says_and_never_where_it_reasons_after_the_tag():
    problem = Problem("x", "What is 2 + 2?", "4", "number")
    right, wrong = answer("<think></think>\n\\boxed{4}"), answer("<think></think>\n\\boxed{5}")
    after = answer("<think></think>\n2 + 1 = 3 and 3 + 1 = 4\n\\boxed{4}")
    for bonus_for, gains in (("any", [1.25, 0.25, 1.0]), ("right", [1.25, 0.0, 1.0])):
        earned = reward.reward_of(RlSettings(direct_bonus=0.25, bonus_for=bonus_for))
        assert [earned(problem, text) for text in (right, wrong, after)] == gains
