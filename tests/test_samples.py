"""What stages 4 and 5 sample, and what of it teaches or is kept."""

from dataclasses import replace

import pytest
from test_rl import PREFIXES, PROBLEMS, SETTINGS, adapted, length_reward

from pipeline import samples
from pipeline.samples import Task


@pytest.mark.parametrize(
    ("earned", "right", "pays", "found"),
    [
        ([0.0, 1.0], [0.0, 1.0], "correctness", True),
        ([1.0, 1.0], [1.0, 1.0], "correctness", False),
        ([-0.2, 0.0], [0.0, 0.0], "correctness", False),  # all wrong, one of them too long
        ([0.8, 1.0], [1.0, 1.0], "correctness", True),  # all right, one through a wrong step
        ([0.1, 0.4], [0.0, 0.0], "mine.py:mine", True),
    ],
)
def test_a_group_teaches_where_the_reward_differs_and_something_is_right(earned, right, pays, found):
    assert samples.teaches(earned, right, replace(SETTINGS, reward=pays)) is found


def test_prefixes_are_taken_in_turn(tiny):
    model, tokenizer = adapted(tiny)
    task = Task(length_reward, PREFIXES)
    taken = samples.sample(model, tokenizer, ["What is 1 + 1?", "What is 2 + 2?"] * 4, task, SETTINGS, seed=0)
    starts = [tokenizer.decode(s.ids[:2]) for s in taken]
    assert starts == ["<think></think>", "<think>\n"] * 4


def test_the_reference_is_the_share_of_right_samples(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(samples, "correctness", lambda problem, completion: float(problem.id != "p6"))
    found = samples.references(
        model, tokenizer, PROBLEMS, Task(length_reward, PREFIXES), replace(SETTINGS, reference=2), 0
    )
    assert found == {p.id: float(p.id != "p6") for p in PROBLEMS}


def test_what_is_kept_is_the_most_accurate_or_the_cheapest_within_the_loss():
    content, choice = Task(length_reward), Task(length_reward, PREFIXES)
    start = {"accuracy": 0.40, "tokens": 50.0, "reward": 0.40}
    longer = {"accuracy": 0.42, "tokens": 60.0, "reward": 0.42}
    shorter = {"accuracy": 0.39, "tokens": 30.0, "reward": 0.49}
    worse = {"accuracy": 0.30, "tokens": 20.0, "reward": 0.60}
    assert [content.better(point, start, start, 0.02) for point in (longer, shorter, worse)] == [True, False, False]
    assert [choice.better(point, start, start, 0.02) for point in (longer, shorter, worse)] == [False, True, False]
    assert not choice.better(shorter, start, start, 0.0)
    assert not choice.better(shorter, shorter, start, 0.02)
