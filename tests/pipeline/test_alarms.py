"""What stops a training that has gone wrong, and what does not."""

import pytest

from pipeline.alarms import find_alarm

MOVING = [1.0, 1.1, 1.2, 1.3]


def make_step(reward=0.5, entropy=0.4, drift=0.0):
    return {"reward": reward, "entropy": entropy, "drift": drift}


def make_log(**last):
    """Six steps, the last three of which are different."""
    return [make_step()] * 3 + [make_step(**last)] * 3


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({"reward": 0.2}, "the reward fell from 0.500 to 0.200"),
        ({"entropy": 0.03}, "the entropy fell from 0.400 to 0.030"),
        ({"drift": 0.3}, "log-probabilities differ by 0.30 nats a token"),
    ],
)
def test_each_collapse_is_found(last, reason):
    assert reason in find_alarm(make_log(**last), MOVING)


@pytest.mark.parametrize("last", [{}, {"reward": 0.3, "entropy": 0.1, "drift": 0.05}])
def test_lesser_changes_are_none(last):
    assert find_alarm(make_log(**last), MOVING) is None


def test_a_collapse_needs_steps_to_compare():
    assert find_alarm([make_step()] * 2 + [make_step(reward=0.1)] * 3, MOVING) is None


def test_a_fall_on_dev_is_found_where_it_is_more_than_chance():
    start = {"eval_accuracy": 0.40, "eval_n": 200}
    fallen = {"eval_accuracy": 0.29, "eval_n": 200}
    assert "accuracy on dev fell from 40.0% to 29.0%" in find_alarm([start, make_step(), fallen], MOVING)

    # 6 and 4 of 120
    few = [{"eval_accuracy": 0.05, "eval_n": 120}, {"eval_accuracy": 0.033, "eval_n": 120}]
    assert find_alarm(few, MOVING) is None


@pytest.mark.parametrize("norms", [[1.0, 1.0, 1.0], [1.0, 1.1, 1.1, 1.1]])
def test_weights_that_do_not_move_are_found(norms):
    assert "no weight has moved in 2 steps" in find_alarm([make_step()], norms)


def test_one_step_without_a_move_is_none():
    assert find_alarm([make_step()], [1.0, 1.1, 1.1]) is None
