"""Stage 5 as a whole: what a training leaves, and that it goes on where it was."""

import copy
import json
import shutil
import types
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from data.files import UserError
from data.problem import Problem
from pipeline import choice
from pipeline.choice import Point
from pipeline.evaluate import evaluate
from pipeline.prompts import DIRECT
from pipeline.run_dir import RunDir
from pipeline.stages import adaptive, adaptive_training
from pipeline.training import ShowProgress

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TRAINER = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_steps": 2,
}
PROBLEMS = [
    Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number", family="sums", level=1 + i % 2) for i in range(6, 14)
]


def evaluate_with_short_answers(*arguments, **options):
    """The untrained model never ends, so that its direct answers would be as long as its thoughts."""
    answers = evaluate(*arguments, **options)
    if options.get("prefix") != DIRECT:
        return answers

    short = [replace(completion, thinking_tokens=0, answer_tokens=4) for completion in answers.completions]
    return replace(answers, completions=short)


@pytest.fixture
def make_context(tiny, tmp_path, monkeypatch):
    """The function that gives the context of a training in one folder, as a run would."""
    model, tokenizer = tiny
    torch.manual_seed(0)
    parent = get_peft_model(copy.deepcopy(model), LoraConfig(task_type="CAUSAL_LM", **LORA))
    parent.save_pretrained(tmp_path / "parent")
    monkeypatch.setattr(adaptive_training, "load_tokenizer", lambda folder: tokenizer)
    monkeypatch.setattr(adaptive_training, "evaluate", evaluate_with_short_answers)

    def load_model(adapter, trainable=False):
        return PeftModel.from_pretrained(copy.deepcopy(model), adapter, is_trainable=trainable), tokenizer

    recipe = types.SimpleNamespace(
        eval=types.SimpleNamespace(generation={"max_new_tokens": 12}, batch_size=8),
        base=types.SimpleNamespace(fast_training=True),
        report_to="none",
    )
    settings = types.SimpleNamespace(
        price=0.1,
        keep_share=0.5,
        keep_weight=1.0,
        content_weight=0.1,
        group_share=0.0,
        last_layers=None,
        accuracy_margin=0.01,
        generation={"max_new_tokens": 12},
        trainer=TRAINER,
    )
    return lambda: types.SimpleNamespace(
        run=types.SimpleNamespace(recipe=recipe, base="tiny", base_folder=tmp_path, dir=RunDir(tmp_path)),
        stage=adaptive.ADAPTIVE,
        settings=settings,
        seed=1,
        work=tmp_path / "work",
        parent_adapter=tmp_path / "parent",
        load_model=load_model,
        train_problems=lambda: PROBLEMS,
        dev_problems=lambda: PROBLEMS[:4],
    )


def test_a_training_leaves_an_adapter_and_what_was_known(make_context, tmp_path):
    adapter = adaptive.train(make_context())
    assert (adapter / "adapter_model.safetensors").is_file()

    work = tmp_path / "work"
    records = [json.loads(line) for line in (work / "outcomes.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [problem.id for problem in PROBLEMS]
    assert {"thinking", "direct", "probability"} <= records[0].keys()

    summary = json.loads((work / "choice.json").read_text())
    assert summary["direct_rate"].keys() == {"sums 1", "sums 2"}
    assert {"share", "min_accuracy"} <= summary.keys()

    curve = json.loads((work / "curve.json").read_text())
    # The untrained model is right on nothing, so the end is accurate enough.
    assert [point["share"] for point in curve] == [0, 1]
    assert {"accuracy", "tokens", "direct_rate"} <= curve[0].keys()


def test_answers_are_not_asked_for_again_by_another_training(make_context, monkeypatch):
    adaptive.train(make_context())

    labels = []

    def remember(model, tokenizer, problems, *arguments, partial, **options):
        if not any(partial.glob("*.jsonl")):
            labels.append(options["label"])
        return evaluate_with_short_answers(model, tokenizer, problems, *arguments, partial=partial, **options)

    monkeypatch.setattr(adaptive_training, "evaluate", remember)
    context = make_context()
    shutil.rmtree(context.work)
    context.settings.price = 0.2
    adaptive.train(context)

    # What another adapter would answer is not known.
    assert labels
    assert all("share" in label for label in labels)


def test_where_both_ways_come_to_the_same_it_says_so(make_context, monkeypatch):
    monkeypatch.setattr(adaptive_training, "evaluate", evaluate)

    with pytest.raises(UserError, match="all 8 answers are as right and as long, so there is nothing to choose"):
        adaptive.train(make_context())


def test_the_way_is_halved_towards_the_furthest_share_that_is_accurate_enough(make_context, monkeypatch, tmp_path):
    looks = []

    def measure_point(share, answers):
        assert len(answers) == 4
        looks.append(share)
        return Point(share, 0.0 if share < 0.6 else -1.0, 10.0 - share, share)

    monkeypatch.setattr(choice, "measure_point", measure_point)
    context = make_context()
    context.settings.last_layers = 1
    adapter = adaptive.train(context)
    assert looks == [0.0, 1.0, 0.5, 0.75, 0.625, 0.5625]

    kept = load_file(adapter / "adapter_model.safetensors")
    parent = load_file(tmp_path / "parent" / "adapter_model.safetensors")
    trained = load_file(tmp_path / "work" / "final" / "adapter_model.safetensors")
    assert any(not torch.equal(parent[name], trained[name]) for name in parent)
    for name, weight in kept.items():
        torch.testing.assert_close(weight, torch.lerp(parent[name], trained[name], 0.5625))
        if "layers.0" in name:
            assert torch.equal(trained[name], parent[name])


def test_where_always_thinking_is_more_accurate_the_parent_is_kept(make_context, monkeypatch, tmp_path):
    answer = adaptive_training.AdaptiveTraining.answer

    def answer_right_where_it_must_think(self, adapter, problems, name, beginning=""):
        answers = answer(self, adapter, problems, name, beginning)
        is_bar = beginning == choice.THINKING and list(problems) == PROBLEMS[:4]
        return [replace(each, verdict="correct") for each in answers] if is_bar else answers

    monkeypatch.setattr(adaptive_training.AdaptiveTraining, "answer", answer_right_where_it_must_think)
    assert adaptive.train(make_context()) == tmp_path / "parent"
    assert json.loads((tmp_path / "work" / "choice.json").read_text())["min_accuracy"] == pytest.approx(0.99)


def test_where_the_training_costs_accuracy_the_parent_is_kept(make_context, monkeypatch, tmp_path):
    def measure_point(share, answers):
        return Point(share, 0.5 if share == 0 else 0.4, 10.0 - share, share)

    monkeypatch.setattr(choice, "measure_point", measure_point)
    # What always thinking gets on dev, all wrong, is raised to 0.45.
    context = make_context()
    context.settings.accuracy_margin = -0.45

    assert adaptive.train(context) == tmp_path / "parent"


@pytest.mark.parametrize("length", [{}, {"max_steps": 3, "save_steps": 1, "lr_scheduler_type": "constant"}])
def test_an_interrupted_training_goes_on_to_the_same_adapter(make_context, monkeypatch, tmp_path, length):
    # With a number of steps that ends within a pass, transformers would go on from the last checkpoint for one more.
    make_context().settings.trainer = TRAINER | length
    whole = (adaptive.train(make_context()) / "adapter_model.safetensors").read_bytes()
    names = ("outcomes.jsonl", "choice.json", "curve.json", "train.jsonl", "final/adapter_model.safetensors")
    results = [(tmp_path / "work" / name).read_bytes() for name in names]

    def stop(self, *args):
        raise KeyboardInterrupt

    (tmp_path / "work").rename(tmp_path / "first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adaptive_training.AdaptiveTraining, "write_results", stop)
        adaptive.train(make_context())

    again = adaptive.train(make_context())
    assert (again / "adapter_model.safetensors").read_bytes() == whole
    assert results == [(tmp_path / "work" / name).read_bytes() for name in names]


def test_a_training_that_was_stopped_between_two_steps_goes_on_from_its_checkpoint(make_context, monkeypatch, capsys):
    whole = (adaptive.train(make_context()) / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(make_context().work)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShowProgress, "on_step_begin", stop, raising=False)
        adaptive.train(make_context())

    again = adaptive.train(make_context())
    assert "going on from step 2" in capsys.readouterr().err
    assert (again / "adapter_model.safetensors").read_bytes() == whole


def test_who_answers_directly_is_counted_by_family_and_level():
    probabilities = [0.9 if problem.level == 2 else 0.2 for problem in PROBLEMS]
    probabilities[0] = 0.8

    assert adaptive_training.compute_direct_rates(PROBLEMS, probabilities) == {"sums 1": 0.25, "sums 2": 1.0}
