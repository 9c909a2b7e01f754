"""SFT: every solution is one that the grader takes, and the rows and their order are as the seed has them."""

import copy
import json
import types
from collections import Counter
from dataclasses import replace

import pytest

from data.datasets import load
from data.files import UserError
from data.problem import Problem
from pipeline import prompts
from pipeline.learnability import NoSignal
from pipeline.settings import SftSettings
from pipeline.stages import sft

NEVER = [0.0] * 5

# How the code before this one dealt thirty rows in batches of four, with seed 1.
ORDER = [24, 5, 15, 29, 2, 1, 9, 16, 25, 20, 7, 8, 6, 12, 19, 27, 3, 23, 17, 10, 21, 26, 18, 11, 4, 0, 14, 28, 22, 13]


@pytest.fixture(scope="module")
def problems():
    """Train problems of all levels, with solutions."""
    return load("arithmetic_v1", "train").problems[:500]


@pytest.fixture
def settings():
    """The function that gives settings of sft with some keys changed."""

    def build(**changes):
        values = {"steps": "kept", "direct_share": NEVER, "direct_choice_share": 1.0, **changes}
        return SftSettings.model_construct(**values)

    return build


def build_texts(problems, settings):
    return {answer.problem.id: answer.text for answer in sft.build_answers(problems, settings, 0)}


def test_every_problem_is_worked_and_the_share_of_its_level_is_answered_directly_too(problems, settings):
    shares = [1.0, 0.5, 0.0, 0.0, 0.0]
    answers = sft.build_answers(problems, settings(direct_share=shares), 0)

    worked = [answer.problem for answer in answers if answer.text.startswith("<think>\n")]
    assert worked == problems

    direct = Counter(a.problem.level for a in answers if a.text == prompts.format_direct_answer(a.problem.answer))
    levels = Counter(problem.level for problem in problems)
    assert len(answers) == len(problems) + direct.total()
    assert direct[1] == levels[1]
    assert 0.35 * levels[2] <= direct[2] <= 0.65 * levels[2]
    assert set(direct) == {1, 2}


def test_a_problem_of_no_level_counts_as_one_of_the_hardest(settings):
    problem = Problem("x", "What is 1 + 1?", "2", "number", rationale="1 + 1 = 2")
    answers = sft.build_answers([problem], settings(direct_share=[0.0, 0.0, 0.0, 0.0, 1.0]), 0)
    assert len(answers) == 2


def test_a_solution_with_a_wrong_answer_is_refused(problems, settings):
    broken = replace(problems[0], answer="3 or 4")
    with pytest.raises(UserError, match="is graded"):
        sft.build_answers([broken], settings(), 0)

    tagged = replace(problems[0], rationale="<think>\n25 * 4 = 100\n</think>")
    with pytest.raises(UserError, match="has think tags of its own; take them out"):
        sft.build_answers([tagged], settings(), 0)


def test_the_answers_of_a_control_keep_the_answer_and_lose_the_reasoning(problems, settings):
    problems = problems[:200]
    worked = build_texts(problems, settings())
    shuffled = build_texts(problems, settings(steps="shuffled"))

    moved = 0
    for name, text in shuffled.items():
        assert sorted(text.split("\n")) == sorted(worked[name].split("\n"))
        moved += text != worked[name]
    assert moved == sum(len(set(problem.rationale.split("\n"))) > 1 for problem in problems)
    assert moved > 100

    answers = build_texts(problems, settings(steps="none"))
    assert answers == {problem.id: prompts.format_direct_answer(problem.answer) for problem in problems}


def test_a_direct_answer_can_be_taught_without_the_choice_of_it(tiny, problems, settings):
    _, tokenizer = tiny
    problems = problems[:200]
    opening = len(prompts.encode_text(tokenizer, prompts.DIRECT))

    def count_trained(share):
        rows = sft.build_training_rows(tokenizer, problems, settings(steps="none", direct_choice_share=share), 0)
        return [sum(row["completion_mask"]) for row in rows]

    whole = count_trained(1.0)
    some = count_trained(0.25)
    differences = [a - b for a, b in zip(whole, some, strict=True)]
    assert set(differences) == {0, opening}
    assert 25 <= differences.count(0) <= 75


def test_batches_hold_rows_of_like_length_in_random_order():
    rows = [{"input_ids": [0] * n, "completion_mask": [1] * n} for n in range(21, 151)]
    ordered = sft.deal_batches(rows, 8, seed=0)
    assert sorted(len(row["input_ids"]) for row in ordered) == list(range(21, 151))

    batches = [[len(row["input_ids"]) for row in ordered[i : i + 8]] for i in range(0, 128, 8)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding / sum(map(sum, batches)) < 0.15

    means = [sum(batch) / len(batch) for batch in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_direct_answers_are_dealt_out_over_the_batches():
    worked = [{"input_ids": [i] * 90, "completion_mask": [0] * 40 + [1] * 50} for i in range(61)]
    direct = [{"input_ids": [i] * 50, "completion_mask": [0] * 42 + [1] * 8} for i in range(61, 80)]

    ordered = sft.deal_batches(worked + direct, 8, seed=0)

    assert sorted(row["input_ids"][0] for row in ordered) == list(range(80))
    shares = [sum(row in direct for row in ordered[i : i + 8]) for i in range(0, 80, 8)]
    assert set(shares) == {1, 2}


def test_the_order_of_a_seed_never_changes():
    rows = [{"input_ids": [i] * (30 + i % 7), "completion_mask": [1] * (10 + i % 20)} for i in range(30)]
    ordered = sft.deal_batches(rows, 4, seed=1)
    assert [row["input_ids"][0] for row in ordered] == ORDER


def test_answers_that_a_model_could_not_write_whole_are_left_out(capsys):
    rows = [{"input_ids": [0] * n, "completion_mask": [1] * n} for n in (5, 10, 20)]

    assert sft.drop_long_rows(rows, 10, "sft") == rows[:2]
    assert "1 of 3 answers are longer" in capsys.readouterr().err
    with pytest.raises(UserError, match="no solution is left to train on"):
        sft.drop_long_rows(rows, 2, "sft")


@pytest.fixture
def context(tiny, problems):
    """What the training of a stage is given, on the tiny model."""
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    recipe = types.SimpleNamespace(
        eval=types.SimpleNamespace(generation={"max_new_tokens": 40}, batch_size=8),
        base=types.SimpleNamespace(fast_training=True),
        report_to="none",
        stages={"sft": types.SimpleNamespace(lora=lora)},
    )

    def load_model(adapter, trainable):
        from peft import PeftModel

        model = copy.deepcopy(tiny[0])
        if adapter:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        return model, tiny[1]

    return types.SimpleNamespace(
        run=types.SimpleNamespace(recipe=recipe, base="tiny"),
        stage=types.SimpleNamespace(name="sft"),
        seed=1,
        load_model=load_model,
        dev_problems=lambda: problems[:2],
    )


def test_a_control_that_would_train_on_the_same_rows_is_none(context, problems, settings, monkeypatch):
    monkeypatch.setattr(sft, "train_adapter", lambda context, rows, trainer, work: len(rows))
    monkeypatch.setattr("pipeline.models.load.load_tokenizer", lambda folder: context.load_model(None, False)[1])
    context.run.base_folder = context.work = None
    context.train_problems = lambda: problems[:12]
    # Of arithmetic these two styles are one.
    context.settings, real = (settings(solutions=[style], trainer={}, lora={}) for style in ("long", "procedure"))
    context.run.recipe.stages["sft"] = real

    context.stage = types.SimpleNamespace(name="sft_older", control_of="sft")
    with pytest.raises(NoSignal, match="sft_older: it would train on what sft trains on"):
        sft.train(context)

    for other in ({"solutions": ["short"], "trainer": {}}, {"solutions": ["long"], "trainer": {"max_steps": 1}}):
        context.run.recipe.stages["sft"] = settings(lora={}, **other)
        assert sft.train(context) == 12


def test_an_adapter_is_new_or_goes_on_from_another(context, tiny, problems, settings, tmp_path):
    rows = sft.build_training_rows(tiny[1], problems[:12], settings(steps="none"), 1)
    trainer = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
    }

    first = sft.train_adapter(context, rows, trainer, tmp_path / "first")
    second = sft.train_adapter(context, rows, trainer, tmp_path / "second", adapter=first)

    assert (first / "adapter_model.safetensors").read_bytes() != (second / "adapter_model.safetensors").read_bytes()
    losses = []
    for name in ("first", "second"):
        lines = (tmp_path / name / "train.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[0])["loss"])
        assert [point["step"] for point in json.loads((tmp_path / name / "curve.json").read_text())] == [2, 3]
    assert losses[1] < losses[0]
