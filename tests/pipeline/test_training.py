"""Training: scores on dev, logs, checkpoints and resume, through TRL's own trainer."""

import copy
import json
import types

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from data.files import UserError
from data.problem import Problem
from pipeline import memory, processes, prompts, training

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TRAINER = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_on_start": True,
}
PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(6, 26)]


@pytest.fixture
def rows(tiny):
    """Rows of twenty sums with a step each: five batches of four."""
    texts = [prompts.format_thinking_answer(f"{p.question} {p.answer}", p.answer) for p in PROBLEMS]
    return [training.build_row(tiny[1], p, text, "think") for p, text in zip(PROBLEMS, texts, strict=True)]


@pytest.fixture
def train(tiny, rows):
    """The function that trains a fresh copy of the tiny model: train(work, key=value of SFTConfig)."""

    def run(work, scores=(0.5,), model=None, lora=LORA, **trainer):
        looks = iter(scores)
        last = list(scores)[-1]

        def score_dev(model):
            return {"accuracy": next(looks, last), "tokens": 10.0, "n": 4}

        return training.train_sft(
            model or copy.deepcopy(tiny[0]),
            tiny[1],
            rows,
            {**TRAINER, **trainer},
            work=work,
            seed=1,
            label="sft",
            lora=lora,
            score_dev=score_dev,
        )

    return run


def read_log(work):
    return [json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()]


def read_curve(work):
    return json.loads((work / "curve.json").read_text())


def get_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def are_equal(one, other):
    return all(torch.equal(weights, other[name]) for name, weights in one.items())


@pytest.fixture
def interrupt(monkeypatch):
    """The function that ends the next training after a step, as Ctrl-C would."""

    def at(step):
        def stop(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(training.ShowProgress, "on_step_begin", stop, raising=False)

    yield at


def test_a_row_is_the_prompt_of_generation_then_the_completion_then_the_end_of_turn(tiny):
    _, tokenizer = tiny
    text = prompts.format_direct_answer("12")

    row = training.build_row(tokenizer, PROBLEMS[0], text, "think", untrained=3)

    before = prompts.encode_prompt(tokenizer, PROBLEMS[0], "think")
    completion = row["input_ids"][len(before) :]
    assert row["input_ids"][: len(before)] == before
    assert tokenizer.decode(completion) == text + tokenizer.eos_token
    assert row["completion_mask"] == [0] * (len(before) + 3) + [1] * (len(completion) - 3)


def test_a_recipe_goes_over_what_the_pipeline_sets(tiny, tmp_path):
    config = training.build_sft_config(
        {"gradient_checkpointing": True, "learning_rate": 0.1}, tiny[0], tmp_path, 1, "none"
    )

    assert config.gradient_checkpointing
    assert config.seed == 1
    assert config.learning_rate == 0.1
    assert config.use_cpu
    assert not config.bf16
    assert config.max_length is None


def test_keys_that_do_not_go_together_are_one_line(tiny, tmp_path):
    trainer = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 4}

    with pytest.raises(UserError, match="load_best_model_at_end") as error:
        training.build_sft_config(trainer, tiny[0], tmp_path, 1, "none")
    assert "\n" not in str(error.value)


def test_the_curve_and_the_steps_come_from_the_trainers_log(train, tmp_path):
    train(tmp_path, scores=(0.1, 0.2, 0.3, 0.4))

    points = [(point["step"], point["accuracy"]) for point in read_curve(tmp_path)]
    assert points == [(0, 0.1), (2, 0.2), (4, 0.3), (5, 0.4)]
    assert read_curve(tmp_path)[0] == {"step": 0, "accuracy": 0.1, "tokens": 10.0, "n": 4}

    steps = read_log(tmp_path)
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5]
    assert {"loss", "entropy", "mean_token_accuracy", "grad_norm"} <= steps[0].keys()
    assert not any(name.startswith("eval_") for step in steps for name in step)


def test_the_best_adapter_on_dev_can_be_kept(train, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy"}
    kept = get_weights(train(tmp_path / "best", scores=(0.1, 0.5, 0.3, 0.2), **best))

    last = get_weights(train(tmp_path / "last", scores=(0.1, 0.5, 0.3, 0.2)))
    saved = load_file(tmp_path / "best" / "checkpoint-2" / "adapter_model.safetensors")
    assert not are_equal(kept, last)
    assert are_equal(saved, {name.replace(".default", ""): weights for name, weights in kept.items()})


def test_without_dev_problems_nothing_is_scored(tiny, rows, tmp_path):
    training.train_sft(copy.deepcopy(tiny[0]), tiny[1], rows, TRAINER, work=tmp_path, seed=1, label="nano")
    assert read_curve(tmp_path) == []
    assert len(read_log(tmp_path)) == 5


@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_training_ends_as_an_unbroken_one(train, interrupt, monkeypatch, tmp_path, step):
    scores = (0.1, 0.2, 0.3, 0.4)
    whole = get_weights(train(tmp_path / "whole", scores=scores))

    with monkeypatch.context() as patch:
        interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken", scores=scores)
        patch.undo()
    monkeypatch.undo()

    resumed = get_weights(train(tmp_path / "broken", scores=scores[step // 2 + 1 :]))

    assert are_equal(whole, resumed)
    assert read_log(tmp_path / "broken") == read_log(tmp_path / "whole")
    assert read_curve(tmp_path / "broken") == read_curve(tmp_path / "whole")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(train, tmp_path, capsys):
    whole = get_weights(train(tmp_path))
    assert training.find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")

    damaged = tmp_path / "checkpoint-5" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert training.find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert f"{damaged} is not what was written" in "".join(capsys.readouterr().err.split("\n"))
    assert not damaged.parent.exists()

    assert are_equal(whole, get_weights(train(tmp_path)))


def test_a_checkpoint_that_was_being_written_is_forgotten_without_a_word(train, tmp_path, capsys):
    train(tmp_path)
    (tmp_path / "checkpoint-5" / "manifest.json").unlink()

    assert training.find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert "not what was written" not in capsys.readouterr().err


def test_a_training_that_moves_no_weight_says_so(train, tmp_path):
    train(tmp_path, learning_rate=0.0)
    assert (tmp_path / "alarm.txt").read_text() == "no weight has moved in 5 steps\n"

    train(tmp_path / "moves")
    assert not (tmp_path / "moves" / "alarm.txt").exists()


def test_what_does_not_fit_the_memory_is_taken_in_parts_and_teaches_the_same(train, tiny, tmp_path, monkeypatch):
    whole = get_weights(train(tmp_path / "whole"))

    monkeypatch.setattr(training, "fit_batch", memory.find_largest_part)
    model = copy.deepcopy(tiny[0])
    seen = []

    def refuse(module, inputs):
        if torch.is_grad_enabled():
            seen.append(len(inputs[0]))
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    model.get_input_embeddings().register_forward_pre_hook(refuse)
    parts = get_weights(train(tmp_path / "parts", model=model))

    assert seen[:2] == [4, 2]
    assert set(seen[2:]) == {2}
    for name, weights in whole.items():
        torch.testing.assert_close(parts[name], weights, atol=1e-5, rtol=1e-4)


def test_processes_share_the_batch_of_the_recipe(monkeypatch):
    monkeypatch.setattr(processes, "get_state", lambda: types.SimpleNamespace(num_processes=2))
    trainer = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3}

    assert training.split_batch(trainer, "sft") == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    with pytest.raises(UserError, match="2 processes cannot share a batch of 7 rows"):
        training.split_batch({"per_device_train_batch_size": 7}, "sft")


def test_a_tracker_sees_the_scores_on_dev_and_the_steps(train, tmp_path, monkeypatch):
    class Tracker(TrainerCallback):
        seen: list = []

        def on_log(self, args, state, control, logs, **kwargs):
            self.seen.append((state.global_step, dict(logs)))

    callbacks = training.build_callbacks
    monkeypatch.setattr(training, "build_callbacks", lambda *args: [*callbacks(*args), Tracker()])
    train(tmp_path, scores=(0.25, 0.5, 0.75, 1.0))

    dev = [(step, logs["eval_accuracy"]) for step, logs in Tracker.seen if "eval_accuracy" in logs]
    assert dev == [(0, 0.25), (2, 0.5), (4, 0.75), (5, 1.0)]
    assert sum("loss" in logs for _, logs in Tracker.seen) == 5


def test_grpo_scores_dev_the_same_way_and_goes_on_after_a_break(tiny, tmp_path):
    """The mixin on TRL's other trainer."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import GRPOConfig, GRPOTrainer

    class DevScoredGrpoTrainer(training.DevScoring, GRPOTrainer):
        pass

    def reward(completions, **columns):
        return [float(len(text) % 3) for text in completions]

    def build():
        torch.manual_seed(0)
        model = get_peft_model(copy.deepcopy(tiny[0]), LoraConfig(task_type="CAUSAL_LM", **LORA))
        settings = training.build_common_settings(model, tmp_path, 1, "none", "")
        settings |= {"max_steps": 3, "num_generations": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
        settings |= {"max_completion_length": 4, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
        data = Dataset.from_list([{"prompt": "What is 1 + 1?"}] * 4)
        trainer = DevScoredGrpoTrainer(
            model=model,
            args=GRPOConfig(**settings),
            reward_funcs=reward,
            train_dataset=data,
            eval_dataset=data.select([0]),
            processing_class=tiny[1],
            callbacks=training.build_callbacks(tmp_path, "rl"),
        )
        trainer.score_dev = lambda model: {"accuracy": 0.5, "tokens": 1.0, "n": 4}
        return trainer

    build().train()
    assert [point["step"] for point in read_curve(tmp_path)] == [1, 2, 3]
    assert [step["step"] for step in read_log(tmp_path) if "reward" in step] == [1, 2, 3]

    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    build().train(resume_from_checkpoint=training.find_last_checkpoint(tmp_path))
    assert [point["step"] for point in read_curve(tmp_path)] == [1, 2, 3]


def test_trackio_writes_a_run_with_its_name(tiny, rows, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    import sqlite3

    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))

    training.train_sft(
        copy.deepcopy(tiny[0]),
        tiny[1],
        rows,
        TRAINER,
        work=tmp_path / "work",
        seed=1,
        label="sft",
        score_dev=lambda model: {"accuracy": 0.5, "n": 4},
        report_to="trackio",
        run_name="nano/sft",
    )

    [file] = (tmp_path / "trackio").glob("ladder*.db")
    with sqlite3.connect(file) as database:
        logged = database.execute("select run_name, cast(metrics as text) from metrics").fetchall()
    assert {name for name, _ in logged} == {"nano/sft"}
    assert sum("accuracy" in metrics for _, metrics in logged) >= 4
