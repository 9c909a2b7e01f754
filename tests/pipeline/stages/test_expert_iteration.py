"""Expert iteration: what is asked, what is kept, what is trained on, and that it goes on where it was interrupted."""

import copy
import dataclasses
import json
import shutil
import types
from collections import Counter

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from data.dataset_spec import parse_spec
from data.datasets import load, load_train
from data.problem import Completion, read_problems
from data.solutions import render_solution
from pipeline.prompts import format_thinking_answer
from pipeline.run_dir import RunDir
from pipeline.settings import ExpertIterationSettings
from pipeline.stages import expert_iteration
from pipeline.stages.expert_iteration import (
    ExpertIteration,
    Sample,
    get_group,
    keep_at_random,
    repeat_solutions,
    train_expert_iteration,
)
from pipeline.stages.sft import build_training_rows
from pipeline.traces.verify import Candidate
from pipeline.training import ShowProgress

PROBLEMS = load("arithmetic_v1", "train", 16).problems
IDS = [problem.id for problem in PROBLEMS]
# Of one family and level, so that they fall into the rounds in turn.
ALIKE = [dataclasses.replace(problem, family="word", level=1) for problem in PROBLEMS]
DEV = load("arithmetic_v1", "dev", 4).problems
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TRAINER = {
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "max_steps": 1,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
}
SETTINGS = {
    "rounds": 1,
    "samples": 2,
    "keep": "verified",
    "keep_at": 1.0,
    "max_per_problem": 1,
    "require_checked_steps": False,
    "anew": True,
    "replay": 1.0,
    "generation": {"max_new_tokens": 12, "temperature": 0.8},
    "trainer": TRAINER,
}


def make_candidate(problem, is_correct, finish="stop"):
    text = format_thinking_answer("It is a large number", "987654")
    if is_correct:
        text = format_thinking_answer(render_solution(problem, "short"), problem.answer)
    return Candidate(problem, Completion(problem.id, text, 10, 20, 5, finish))


def replace_text(sample, text):
    completion = dataclasses.replace(sample.candidate.completion, text=text)
    return dataclasses.replace(sample, candidate=dataclasses.replace(sample.candidate, completion=completion))


class FakeSampler:
    """Solves, at its first attempt, every second problem, and the others at the second; remembers what it was asked."""

    def __init__(self):
        self.calls = []
        self.files = []

    def __call__(self, model, tokenizer, problems, samples, generation, seed, file, on_progress, origin):
        self.calls.append((origin, [problem.id for problem in problems]))
        self.files.append(file)
        is_first = origin.endswith("attempt 0")

        candidates = []
        for problem in problems:
            is_even = IDS.index(problem.id) % 2 == 0
            candidates.append(make_candidate(problem, is_even or not is_first))
        return candidates


@pytest.fixture
def sampler(monkeypatch):
    fake = FakeSampler()
    monkeypatch.setattr(expert_iteration, "sample_candidates", fake)
    return fake


def write_fake_adapter(folder, weights):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(weights)
    return folder


@pytest.fixture
def trained_rows(monkeypatch):
    """Replaces training by writing down its rows; a list a training."""
    trainings = []

    def train_adapter(context, rows, trainer, work, adapter, score_dev):
        trainings.append(rows)
        final = write_fake_adapter(work / "final", str(len(trainings)))
        (work / "train.jsonl").write_text('{"step": 1}\n')
        return final

    monkeypatch.setattr(expert_iteration, "train_adapter", train_adapter)
    return trainings


@pytest.fixture
def dev_accuracy(monkeypatch):
    """Makes so many of the four dev answers right in each round."""

    def plan(*counts):
        rounds = iter(counts)

        def build_dev_scorer(*_):
            return lambda model: {"accuracy": next(rounds) / len(DEV), "tokens": 20.0, "n": len(DEV)}

        monkeypatch.setattr(expert_iteration, "build_dev_scorer", build_dev_scorer)

    return plan


@pytest.fixture
def make_context(tiny, tmp_path):
    """The function that makes the context of a training: make_context(key=value of ExpertIterationSettings)."""
    base = tmp_path / "base"
    tiny[0].save_pretrained(base)
    tiny[1].save_pretrained(base)

    parent = tmp_path / "parent"
    torch.manual_seed(0)
    get_peft_model(copy.deepcopy(tiny[0]), LoraConfig(task_type="CAUSAL_LM", **LORA)).save_pretrained(parent)

    def load_model(adapter=None, trainable=False):
        model = copy.deepcopy(tiny[0])
        # A replaced training leaves an empty folder.
        if adapter and (adapter / "adapter_config.json").is_file():
            model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        return model, tiny[1]

    sft = types.SimpleNamespace(
        problems=[parse_spec("arithmetic_v1?split=train&take=4")],
        solutions=["short"],
        steps="kept",
        direct_share=[0.0] * 5,
        direct_choice_share=0.0,
        lora=LORA,
    )
    recipe = types.SimpleNamespace(
        report_to="none",
        base=types.SimpleNamespace(fast_training=True),
        eval=types.SimpleNamespace(batch_size=8, generation={"max_new_tokens": 160}),
        stages={"sft": sft},
    )

    def make(problems=PROBLEMS, rewards=("correctness",), weights=(1.0,), **changes):
        settings = ExpertIterationSettings(**SETTINGS | changes)
        return types.SimpleNamespace(
            run=types.SimpleNamespace(base="tiny", base_folder=base, recipe=recipe, dir=RunDir(tmp_path)),
            stage=types.SimpleNamespace(name="rl", parent="sft"),
            settings=types.SimpleNamespace(
                expert_iteration=settings, rewards=list(rewards), reward_weights=list(weights)
            ),
            seed=1,
            work=tmp_path / "work",
            parent_adapter=parent,
            load_model=load_model,
            train_problems=lambda: problems,
            dev_problems=lambda: DEV,
        )

    return make


def read_rounds(context):
    return json.loads((context.work / "rounds.json").read_text())


def read_kept(context):
    return [json.loads(line) for line in (context.work / "kept.jsonl").read_text().splitlines()]


def test_problems_are_asked_again_until_they_are_solved(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(1, 2)
    train_expert_iteration(make_context(samples=3))

    ids = [problem.id for problem in PROBLEMS]
    assert sampler.calls == [
        ("round 1 attempt 0", ids),
        ("round 1 attempt 1", ids[1::2]),
        ("round 1 attempt 2", []),
    ]


def test_the_same_steps_again_are_no_second_solution(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(1, 2)
    train_expert_iteration(make_context(samples=3, max_per_problem=2))

    # The sampler writes one solution of a problem, always the same.
    ids = [problem.id for problem in PROBLEMS]
    assert [asked for _, asked in sampler.calls] == [ids, ids, ids]


def test_an_adapter_is_trained_on_sfts_solutions_and_the_kept_ones(
    make_context, sampler, trained_rows, dev_accuracy, tiny
):
    dev_accuracy(1, 2)
    context = make_context()
    best = train_expert_iteration(context)

    [row] = read_rounds(context)
    [rows] = trained_rows
    assert best == context.work / "adapter-1"
    assert len(rows) == 4 + row["kept"]
    sft = context.run.recipe.stages["sft"]
    learnt = [*load_train(sft.problems[0], 4), *read_problems(context.work / "kept.jsonl")]
    expected = build_training_rows(tiny[1], learnt, sft, 1)
    assert sorted(row["input_ids"] for row in rows) == sorted(row["input_ids"] for row in expected)

    assert len(read_kept(context)) == row["kept"] == sum(row["kept_by_level"].values())
    assert row["kept"] == sum(row["kept_by_family"].values())
    assert (row["problems"], row["samples"], row["tokens"]) == (16, 24, 24 * 25)
    assert row["dropped"]["a wrong answer"] == 8
    assert row["dev_accuracy"] == 0.5


@pytest.mark.parametrize(("replay", "count"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_share_of_sfts_solutions_is_trained_on_again(
    make_context, sampler, trained_rows, dev_accuracy, replay, count
):
    dev_accuracy(1, 2)
    context = make_context(replay=replay)
    train_expert_iteration(context)

    [row] = read_rounds(context)
    [rows] = trained_rows
    assert len(rows) == count + row["kept"]


def test_what_is_left_behind_trains_with_trl_and_is_a_data_set(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(1, 2)
    context = make_context()
    train_expert_iteration(context)

    [line, *_] = read_kept(context)
    assert [message["role"] for message in line["prompt"]] == ["system", "user"]
    assert line["completion"][0]["content"].startswith("<think>")
    assert len(read_problems(context.work / "kept.jsonl")) == len(read_kept(context))

    [row] = read_rounds(context)
    dropped = [json.loads(line) for line in (context.work / "dropped.jsonl").read_text().splitlines()]
    assert Counter(line["reason"] for line in dropped) == row["dropped"]
    assert dropped[0]["prompt"][1]["content"] == next(p.question for p in PROBLEMS if p.id == dropped[0]["id"])
    assert dropped[0]["completion"][0]["content"].endswith("\\boxed{987654}")

    curve = json.loads((context.work / "curve.json").read_text())
    assert [(point["round"], point["accuracy"], point["n"]) for point in curve] == [(0, 0.25, 4), (1, 0.5, 4)]
    assert (context.work / "train.jsonl").is_file()


def test_an_adapter_that_is_not_better_on_dev_is_not_returned(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(2, 2)
    context = make_context()
    assert train_expert_iteration(context) == context.parent_adapter


def test_each_round_asks_new_problems_and_trains_on_all_that_was_kept(
    make_context, sampler, trained_rows, dev_accuracy
):
    dev_accuracy(1, 3, 2)
    context = make_context(problems=ALIKE, rounds=2, samples=1)
    best = train_expert_iteration(context)

    # The odd problems are of round 2, and none is solved at a first attempt.
    assert sampler.calls == [("round 1 attempt 0", IDS[::2]), ("round 2 attempt 0", IDS[1::2])]
    assert [row["samples"] for row in read_rounds(context)] == [8, 16]
    assert len(trained_rows[0]) == len(trained_rows[1])
    assert best == context.work / "adapter-1"


def test_each_round_begins_anew_or_goes_on_from_the_adapter_before(make_context, sampler, monkeypatch, dev_accuracy):
    starts = []

    def train_adapter(context, rows, trainer, work, adapter, score_dev):
        starts.append(adapter)
        return write_fake_adapter(work / "final", str(len(starts)))

    monkeypatch.setattr(expert_iteration, "train_adapter", train_adapter)
    for anew in (True, False):
        dev_accuracy(1, 2, 3)
        context = make_context(rounds=2, anew=anew)
        train_expert_iteration(context)
        shutil.rmtree(context.work)

    assert starts == [None, None, context.parent_adapter, context.work / "adapter-1"]


def test_a_round_asks_again_what_the_one_before_did_not_solve(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(1, 2, 3)
    first, second, third, fourth = ALIKE[:4]
    training = ExpertIteration(make_context(problems=[first, third, second, fourth], rounds=2, samples=1))
    training.run()

    assert sampler.calls == [
        ("round 1 attempt 0", [first.id, second.id]),
        ("round 2 attempt 0", [third.id, second.id, fourth.id]),
    ]
    attempts = [(sample.candidate.problem.id, sample.attempt) for sample in training.samples]
    assert attempts == [(first.id, 0), (second.id, 0), (third.id, 0), (second.id, 1), (fourth.id, 0)]


@pytest.mark.parametrize("name", ["arithmetic_v1", "logic_v1"])
def test_each_round_asks_its_share_of_every_family_and_level(make_context, name):
    problems = load(name, "train", 300).problems
    training = ExpertIteration(make_context(problems=problems, rounds=2))

    all_of_them = Counter(map(get_group, problems))
    for group, count in Counter(map(get_group, training.find_unsolved(1))).items():
        assert abs(count - all_of_them.pop(group) / 2) <= 0.5
    assert not all_of_them


def test_the_control_keeps_as_many_at_random(make_context, sampler, trained_rows, dev_accuracy, tmp_path):
    dev_accuracy(1, 2)
    verified = make_context()
    train_expert_iteration(verified)
    kept = read_kept(verified)
    [row] = read_rounds(verified)

    dev_accuracy(1, 2)
    control = make_context(keep="random")
    control.work = tmp_path / "control"
    train_expert_iteration(control)
    [control_row] = read_rounds(control)

    for key in ("kept", "kept_by_level", "kept_by_family", "samples"):
        assert control_row[key] == row[key]
    assert len(trained_rows[0]) == len(trained_rows[1])
    assert any(line["answer"] == "987654" for line in read_kept(control))
    assert not any(line["answer"] == "987654" for line in kept)


def test_a_control_takes_the_samples_that_are_there_and_other_settings_do_not(
    make_context, sampler, trained_rows, dev_accuracy, tmp_path
):
    files = []
    changes = [{}, {"keep": "random"}, {"generation": {"max_new_tokens": 12, "temperature": 0.5}}]
    for number, change in enumerate(changes):
        dev_accuracy(1, 2)
        context = make_context(**change)
        context.work = tmp_path / f"work-{number}"
        sampler.files.clear()
        train_expert_iteration(context)
        files.append(list(sampler.files))

    verified, control, other = files
    assert len(set(verified)) == 2
    assert control == verified
    assert not set(other) & set(verified)


def test_the_other_control_repeats_first_solutions(make_context, sampler, trained_rows, dev_accuracy, tmp_path):
    dev_accuracy(1, 2)
    train_expert_iteration(make_context())

    dev_accuracy(1, 2)
    control = make_context(keep="first")
    control.work = tmp_path / "control"
    train_expert_iteration(control)

    verified, again = ([tuple(row["input_ids"]) for row in rows] for rows in trained_rows)
    assert len(verified) == len(again)
    assert len(set(again)) < len(set(verified))


def test_first_solutions_are_repeated_by_family_and_level():
    first = load("arithmetic_v1", "train", 60).problems
    # The first levels come first, as in a recipe.
    verified = [problem for problem in PROBLEMS if problem.level in (2, 3)]
    again = repeat_solutions(sorted(first, key=lambda problem: problem.level), verified, seed=1)

    assert Counter(map(get_group, again)) == Counter(map(get_group, verified))
    assert len({solution.id for solution in again}) == len(verified)
    assert repeat_solutions(first, verified, seed=2) != again

    # None of these families: any are taken, each once.
    unknown = [dataclasses.replace(problem, family=problem.id) for problem in verified]
    again = repeat_solutions(first, unknown, seed=1)
    assert len({solution.question for solution in again}) == len(verified)


def test_samples_at_random_are_finished_and_of_the_first_attempt_where_there_are_enough():
    first = [Sample(make_candidate(problem, False), 0) for problem in PROBLEMS]
    later = [Sample(make_candidate(problem, True), 1) for problem in PROBLEMS]
    assert all(s.answer == "987654" for s in keep_at_random(later + first, PROBLEMS, seed=1))

    tagged = [replace_text(sample, "<think>\n<think>\nSo\n</think>\n\\boxed{1}") for sample in first]
    assert keep_at_random(tagged, PROBLEMS, seed=1) == []

    truncated = [Sample(make_candidate(problem, False, "length"), 0) for problem in PROBLEMS]
    assert [s.answer for s in keep_at_random(truncated, PROBLEMS, seed=1)] == []


def test_a_problem_that_is_kept_twice_gets_two_ids():
    [problem] = PROBLEMS[:1]
    samples = [Sample(make_candidate(problem, True), attempt) for attempt in (0, 1)]
    assert [s.id for s in keep_at_random(samples, [problem, problem], seed=1)] == [problem.id, f"{problem.id}#2"]


def test_where_nothing_is_verified_the_first_adapter_is_kept_and_the_reason_is_written(
    make_context, monkeypatch, dev_accuracy
):
    def sample(model, tokenizer, problems, *rest, **settings):
        return [make_candidate(problem, False) for problem in problems]

    monkeypatch.setattr(expert_iteration, "sample_candidates", sample)
    dev_accuracy(1)
    context = make_context()

    assert train_expert_iteration(context) == context.parent_adapter
    assert "a wrong answer" in (context.work / "dropped.jsonl").read_text()
    alarm = (context.work / "alarm.txt").read_text()
    assert alarm.startswith("nothing was kept in round 1 (") and "32 candidates, 0 kept; dropped: 32 a wrong" in alarm


def test_samples_that_earn_enough_are_kept_by_a_reward_of_the_recipe(make_context, sampler, trained_rows, dev_accuracy):
    """The form alone is rewarded, so wrong answers are kept too."""
    dev_accuracy(1, 2)
    context = make_context(rewards=("format",), samples=1)
    train_expert_iteration(context)

    assert any(line["answer"] == "987654" for line in read_kept(context))


def test_a_reward_counts_by_its_weight(make_context, sampler, trained_rows, dev_accuracy):
    dev_accuracy(1)
    context = make_context(rewards=("format",), weights=(0.5,), keep_at=1.0)
    assert train_expert_iteration(context) == context.parent_adapter
    assert not trained_rows


@pytest.fixture
def half_right(monkeypatch):
    """Makes half of what is sampled right; sampling, training and scoring are real."""
    sample = expert_iteration.sample_candidates

    def sample_half_right(*arguments, **options):
        candidates = sample(*arguments, **options)
        return [make_candidate(c.problem, PROBLEMS.index(c.problem) % 2 == 0) for c in candidates]

    monkeypatch.setattr(expert_iteration, "sample_candidates", sample_half_right)


def test_a_finished_round_is_not_done_again(make_context, half_right, monkeypatch):
    context = make_context(samples=1)
    best = train_expert_iteration(context)
    left = read_files(context.work)

    assert (context.work / "adapter-1" / "adapter_model.safetensors").is_file()
    assert not (context.work / "training-1").exists()

    def refuse(*_, **__):
        raise AssertionError("this was done already")

    monkeypatch.setattr("pipeline.traces.sample.generate", refuse)
    monkeypatch.setattr(expert_iteration, "train_adapter", refuse)
    assert train_expert_iteration(context) == best
    assert read_files(context.work) == left


def test_a_round_that_was_stopped_between_two_steps_goes_on_from_its_checkpoint(
    make_context, half_right, monkeypatch, capsys
):
    def stop(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    context = make_context(samples=1, trainer=TRAINER | {"max_steps": 5, "save_steps": 2})
    train_expert_iteration(context)
    adapter = context.work / "adapter-1" / "adapter_model.safetensors"
    whole = adapter.read_bytes()
    shutil.rmtree(context.work)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShowProgress, "on_step_begin", stop, raising=False)
        train_expert_iteration(context)

    train_expert_iteration(context)
    assert "going on from step 2" in capsys.readouterr().err
    assert adapter.read_bytes() == whole


def read_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
