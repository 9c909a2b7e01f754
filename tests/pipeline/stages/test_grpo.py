"""GRPO on an untrained model: weights move, groups without a signal are replaced, and a resumed run equals another."""

import copy
import json
import re
import types
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from data.files import UserError
from data.problem import Problem
from pipeline import rollouts
from pipeline.generate import generate
from pipeline.learnability import NoSignal
from pipeline.problem_sampler import ProblemSampler
from pipeline.rewards import combine_rewards
from pipeline.rollouts import GroupSampler, RolloutFunction
from pipeline.settings import GrpoSettings, LearnabilitySettings
from pipeline.stages import grpo

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number", level=1) for i in range(6, 14)]
TRAINER = {
    "max_steps": 2,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 12,
    "temperature": 1.0,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "loss_type": "dapo",
    "scale_rewards": "none",
    "beta": 0.0,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_on_start": True,
}

# In TRL's signature, as a user would write them.
REWARDS = '''
from collections import Counter

def parity(prompts, completions, completion_ids, **columns):
    """Half of all texts earn 1."""
    return [float(len(text) % 2) for text in completions]

def repetition(prompts, completions, completion_ids, **columns):
    """The share of the most common letter."""
    return [max(Counter(text).values()) / len(text) if text else 0.0 for text in completions]

def odd_problems(prompts, completions, completion_ids, problem, **columns):
    """Only every second problem has samples that differ."""
    is_odd = [int(each["id"][1:]) % 2 for each in problem]
    return [float(odd and len(text) % 2) for odd, text in zip(is_odd, completions)]
'''


@pytest.fixture(scope="module")
def parent_adapter(tiny, tmp_path_factory):
    """The folder of the adapter that a training starts from."""
    folder = tmp_path_factory.mktemp("parent") / "adapter"
    torch.manual_seed(0)
    get_peft_model(
        copy.deepcopy(tiny[0]), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def train(tiny, parent_adapter, tmp_path):
    """The function that trains: train(name of the work folder, reward, key=value of GRPOConfig)."""
    (tmp_path / "mine.py").write_text(REWARDS)

    def load_model(adapter=None, trainable=False):
        return PeftModel.from_pretrained(copy.deepcopy(tiny[0]), adapter, is_trainable=trainable), tiny[1]

    def run(work="work", reward="parity", probe=0, max_resample=1, accuracy=None, weight=1.0, **trainer):
        settings = types.SimpleNamespace(
            rewards=[f"{tmp_path}/mine.py:{reward}" if reward != "correctness" else reward],
            reward_weights=[weight],
            learnability=LearnabilitySettings(samples=probe, problems_per_level=4),
            grpo=GrpoSettings(max_resample=max_resample, trainer=TRAINER | trainer),
        )
        recipe = types.SimpleNamespace(
            report_to="none",
            base=types.SimpleNamespace(fast_training=True),
            eval=types.SimpleNamespace(batch_size=8, generation={"max_new_tokens": 12}),
        )
        context = types.SimpleNamespace(
            run=types.SimpleNamespace(base="tiny", recipe=recipe),
            stage=types.SimpleNamespace(name="rl", parent="sft"),
            settings=settings,
            seed=1,
            work=tmp_path / work,
            parent_adapter=parent_adapter,
            load_model=load_model,
            train_problems=lambda: PROBLEMS,
            dev_problems=lambda: [*PROBLEMS[:4], replace(PROBLEMS[0], id="other", level=2)],
        )
        return grpo.train_grpo(context)

    return run


@pytest.fixture
def dev_accuracy(monkeypatch):
    """Makes the looks at dev give these accuracies, one after the other."""

    def plan(*values):
        points = iter(values)

        def build_dev_scorer(*_):
            return lambda model: {"accuracy": next(points), "tokens": 10.0, "n": 200}

        monkeypatch.setattr(grpo, "build_dev_scorer", build_dev_scorer)

    return plan


def read_log(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def read_curve(folder):
    return json.loads((folder / "curve.json").read_text())


def read_weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_the_recipe_goes_over_what_the_pipeline_would_set(train, monkeypatch):
    class Built(Exception):
        pass

    def stop(self, config, rollouts):
        raise Built(config)

    monkeypatch.setattr(grpo.GrpoTraining, "build_trainer", stop)
    with pytest.raises(Built) as built:
        train(gradient_checkpointing=True)

    [config] = built.value.args
    assert config.gradient_checkpointing
    assert config.disable_dropout


def test_the_weights_move_and_the_best_adapter_on_dev_is_returned(train, parent_adapter, tmp_path, dev_accuracy):
    dev_accuracy(0.2, 0.5, 0.4)
    best = train()

    start = read_weights(parent_adapter)
    first = read_weights(tmp_path / "work" / "checkpoint-1")
    kept = read_weights(best)
    assert any(not torch.equal(kept[name], start[name]) for name in kept)
    assert all(torch.equal(kept[name], first[name]) for name in kept)

    assert [point["step"] for point in read_curve(tmp_path / "work")] == [0, 1, 2]
    [step, _] = read_log(tmp_path / "work")
    assert step["rewards/parity/mean"] == pytest.approx(step["reward"])
    assert step["sampled/samples"] == 8
    assert not (tmp_path / "work" / "alarm.txt").exists()


def test_where_no_step_is_better_on_dev_the_parents_adapter_is_returned(train, parent_adapter, dev_accuracy):
    dev_accuracy(0.5, 0.5, 0.4)
    assert train() == parent_adapter


def test_a_resumed_training_equals_an_unbroken_one(train, tmp_path, dev_accuracy, monkeypatch):
    """On the same problems: what is drawn follows from the step and the seed."""

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    settings = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "max_resample": 2}
    dev_accuracy(0.1, 0.2, 0.3)
    whole = train("whole", **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        build = grpo.build_callbacks
        patch.setattr(grpo, "build_callbacks", lambda *parts: [*build(*parts), Interrupt()])
        dev_accuracy(0.1, 0.2)
        train("broken", **settings)
    assert (tmp_path / "broken" / "checkpoint-2").is_dir()

    dev_accuracy(0.3)
    resumed = train("broken", **settings)

    weights = read_weights(whole)
    again = read_weights(resumed)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert read_curve(tmp_path / "whole") == read_curve(tmp_path / "broken")
    assert drop_times(read_log(tmp_path / "whole")) == drop_times(read_log(tmp_path / "broken"))


def drop_times(log):
    steps = []
    for step in log:
        steps.append({key: value for key, value in step.items() if "time" not in key and "seconds" not in key})
    return steps


def test_a_training_that_moves_no_weight_is_stopped_and_says_so(train, tmp_path):
    train(learning_rate=0.0, max_steps=6, save_steps=6, eval_steps=6)

    assert (tmp_path / "work" / "alarm.txt").read_text() == "stopped at step 2: no weight has moved in 2 steps\n"
    assert len(read_log(tmp_path / "work")) == 2


def test_a_collapse_is_stopped_and_the_best_adapter_is_returned(train, parent_adapter, tmp_path):
    """What pays here is to write one letter for ever, and it is learnt within some steps."""
    batch = {"num_generations": 8, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1}
    steps = {"max_steps": 40, "save_steps": 40, "eval_steps": 40}
    best = train(reward="repetition", learning_rate=0.05, **batch, **steps)

    assert "the entropy fell from" in (tmp_path / "work" / "alarm.txt").read_text()
    assert len(read_log(tmp_path / "work")) < 40
    assert best == parent_adapter


def test_samples_of_other_weights_are_noticed(train, tiny, parent_adapter, tmp_path, monkeypatch):
    old = PeftModel.from_pretrained(copy.deepcopy(tiny[0]), parent_adapter)
    generate = rollouts.generate
    monkeypatch.setattr(rollouts, "generate", lambda model, *rest, **settings: generate(old, *rest, **settings))

    train(max_steps=20, save_steps=20, eval_steps=20, learning_rate=3e-2)

    assert "the samples are not the trained model's" in (tmp_path / "work" / "alarm.txt").read_text()


def test_samples_of_the_trained_model_have_no_drift(train, tmp_path):
    train(temperature=0.7, learning_rate=3e-2)
    assert all(step["drift"] < 1e-4 for step in read_log(tmp_path / "work"))


def test_groups_without_a_signal_are_replaced(train, tmp_path):
    """Every group that is trained on is of the half of the problems whose samples differ."""
    train(reward="odd_problems", max_resample=6, num_generations=8, per_device_train_batch_size=16, max_steps=4)

    log = read_log(tmp_path / "work")
    assert all(step["frac_reward_zero_std"] == 0 for step in log)
    assert any(step["sampled/samples"] > 32 for step in log)
    assert any(step["sampled/mixed"] < 1 for step in log)


class FakeVllm:
    """Stands for TRL's engine, and samples as ours does."""

    def __init__(self, model, processing_class, temperature, max_completion_length, **settings):
        self.asked = (model, processing_class)
        self.settings = {"temperature": temperature, "max_new_tokens": max_completion_length}
        self.synced = 0

    def sync_weights(self):
        self.synced += 1

    def generate(self, prompts, images, num_generations):
        assert num_generations == 1
        sequences = generate(*self.asked, prompts, seed=self.synced, **self.settings)
        logprobs = [[[logprob] for logprob in sequence.logprobs] for sequence in sequences]
        return prompts, [sequence.ids for sequence in sequences], logprobs, None


def test_samples_come_from_vllm_where_trl_has_one(train, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("sampled by the loop")

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeVllm)
    monkeypatch.setattr(rollouts, "generate", refuse)
    train(use_vllm=True, temperature=0.7)

    # Samples by the weights of the step before would lie further away.
    log = read_log(tmp_path / "work")
    assert len(log) == 2
    assert all(step["drift"] < 1e-4 for step in log)


def test_a_model_that_solves_nothing_is_refused_before_training(train, tmp_path):
    with pytest.raises(NoSignal, match="rl cannot learn: no group is mixed"):
        train(reward="correctness", probe=2)

    found = json.loads((tmp_path / "work" / "learnability.json").read_text())
    assert (found["problems"], found["samples"], found["mixed"]) == (4, 2, 0)


def test_a_reward_counts_by_its_weight(train, tmp_path):
    train(weight=0.5)
    log = read_log(tmp_path / "work")
    assert any(step["reward"] for step in log)
    for step in log:
        [part] = [value for key, value in step.items() if re.fullmatch("rewards/.*/mean", key)]
        assert step["reward"] == pytest.approx(0.5 * part)


def test_a_tag_that_the_template_opens_is_not_trained(tiny, train, tmp_path, monkeypatch):
    def count_trained(work):
        train(work)
        return [step["completions/max_length"] for step in read_log(tmp_path / work)]

    assert count_trained("closed") == [12, 12]

    # The tag is one token here, and TRL counts those that are the model's own.
    opened = tiny[1].chat_template + "{% if add_generation_prompt %}<think>{% endif %}"
    monkeypatch.setattr(tiny[1], "chat_template", opened)
    assert count_trained("opened") == [11, 11]


def test_few_samples_are_said_before_training(train, capsys):
    train()
    assert "the recipe takes 16 samples; GRPO at this size is known to gain from about 90,000" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_trl_refuses_is_one_line(train):
    with pytest.raises(UserError, match=r"rl.grpo.trainer: .*num_generations.*; change the recipe"):
        train(num_generations=3)


def test_problems_are_drawn_by_level():
    problems = [Problem(f"p{i}", "?", "1", "number", level=i % 5 + 1) for i in range(20)]

    groups = grpo.group_by_level(problems)
    assert list(groups) == [f"number {level}" for level in range(1, 6)]
    assert {len(group) for group in groups.values()} == {4}


def sample_groups(tiny, count, size, step):
    model, tokenizer = tiny
    sampler = GroupSampler(tokenizer, combine_rewards(["random"], [1.0]), size, 8, 1.0)
    rollouts = RolloutFunction(sampler, ProblemSampler({"1": PROBLEMS}, {}, 1), 1, 1)
    return rollouts.sample_groups(model, count, step)


def test_a_step_draws_other_problems_than_the_one_before_and_the_same_again(tiny):
    def draw(step):
        return {group[0].problem.id for group in sample_groups(tiny, 4, 2, step)}

    assert len(draw(0)) == 4
    assert not draw(0) & draw(1)
    assert draw(0) == draw(0)


def test_samples_of_a_problem_differ(tiny):
    [group] = sample_groups(tiny, 1, 4, 0)
    assert len({rollout.problem.id for rollout in group}) == 1
    assert len({tuple(rollout.sequence.ids) for rollout in group}) == 4
