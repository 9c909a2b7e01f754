"""Stage 4 chooses its algorithm by the recipe."""

import types

import pytest

from pipeline.learnability import NoSignal
from pipeline.run_dir import RunDir
from pipeline.stages import expert_iteration, grpo
from pipeline.stages.rl import RL
from pipeline.stages.stage import TrainingContext


@pytest.fixture
def train(monkeypatch, tmp_path):
    """The function that trains by an algorithm, with stand-ins for both: expert iteration returns work/adapter-1."""

    def train_expert_iteration(context):
        (context.work / "curve.json").write_text("[1]")
        return context.work / "adapter-1"

    def train_grpo(context):
        (context.work / "curve.json").write_text("[2]")
        (context.work / "alarm.txt").write_text("a collapse")
        return context.parent_adapter / "further"

    monkeypatch.setattr(expert_iteration, "train_expert_iteration", train_expert_iteration)
    monkeypatch.setattr(grpo, "train_grpo", train_grpo)
    run = types.SimpleNamespace(recipe=None, dir=RunDir(tmp_path))

    def train(algorithm):
        return RL.train(TrainingContext(run, RL, types.SimpleNamespace(algorithm=algorithm), 1, tmp_path))

    return train


def test_the_recipe_chooses_the_algorithm(train, tmp_path):
    assert train("grpo") == tmp_path / "sft" / "adapter" / "further"
    assert train("expert_iteration") == tmp_path / "adapter-1"


def test_both_start_grpo_from_the_adapter_of_expert_iteration_and_keep_the_files_of_both(train, tmp_path):
    assert train("both") == tmp_path / "adapter-1" / "further"
    assert (tmp_path / "curve.json").read_text() == "[1]"
    assert (tmp_path / "grpo_curve.json").read_text() == "[2]"
    assert (tmp_path / "alarm.txt").read_text() == "a collapse"


def test_where_grpo_has_nothing_to_learn_the_adapter_of_expert_iteration_is_kept(train, tmp_path, monkeypatch):
    def find_no_signal(context):
        raise NoSignal("all samples earn the same")

    monkeypatch.setattr(grpo, "train_grpo", find_no_signal)
    assert train("both") == tmp_path / "adapter-1"
