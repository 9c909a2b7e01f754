"""Stage 4 chooses its algorithm by the recipe."""

import types

import pytest

from pipeline.stages import expert_iteration, grpo
from pipeline.stages.rl import RL


@pytest.mark.parametrize("algorithm", ["expert_iteration", "grpo"])
def test_the_recipe_chooses_the_algorithm(algorithm, monkeypatch):
    monkeypatch.setattr(grpo, "train_grpo", lambda context: "grpo")
    monkeypatch.setattr(expert_iteration, "train_expert_iteration", lambda context: "expert_iteration")
    context = types.SimpleNamespace(settings=types.SimpleNamespace(algorithm=algorithm))

    assert RL.train(context) == algorithm


def test_it_starts_from_sft_and_is_compared_to_it():
    assert RL.parent == "sft"
    assert RL.compared_to == ("sft",)
    assert RL.section == "rl"
