"""The plan: arithmetic over the recipe, rates that are measured once, and a run's own answers where it has some."""

import dataclasses

import pytest

from data.datasets import load
from pipeline.config import load_recipe
from pipeline.run_dir import RunDir
from pipeline.stages import STAGES, get_stage
from pipeline.tools import plan
from pipeline.tools.plan import ANSWER_TOKENS, THINKING_TOKENS, Plan, find_rates, make_plan, read_answer_tokens

RATES = {"decoded": 1000.0, "trained": 1000.0, "source": "measured here"}


@pytest.fixture
def new_run(finished_run, overrides, tmp_path):
    """The function that gives the finished run's base in an empty folder, with changes of the recipe."""

    def change(*changes):
        recipe = load_recipe("cpu", [*overrides, *changes])
        return dataclasses.replace(finished_run, dir=RunDir(tmp_path / "empty"), recipe=recipe)

    return change


def test_the_sum_and_a_line_for_each_stage(new_run, monkeypatch):
    monkeypatch.setattr(plan, "find_rates", lambda run, rows: RATES)
    first, *lines = make_plan(new_run())

    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert first.startswith("plan: about ")
    assert "1,000 tokens/s decoded, 1,000 trained on; measured here" in first
    # Seven problems without examples, and the same with one, of which no figure is known.
    tokens = ANSWER_TOKENS["plain zero-shot"] + THINKING_TOKENS
    assert f"{7 * tokens} tokens decoded, 0 trained on" in lines[0].replace(",", "", 1)


def test_work_follows_from_the_recipe(new_run):
    def count(name, *overrides):
        return Plan(new_run(*overrides)).count_stage(get_stage(name))

    one_pass = ("sft.trainer.per_device_train_batch_size=1", "sft.trainer.num_train_epochs=1")
    once = count("sft", *one_pass)
    twice = count("sft", one_pass[0], "sft.trainer.num_train_epochs=2")
    assert twice[1] == pytest.approx(2 * once[1])

    # Dev is scored before training and every fifth step.
    points = count("sft", *one_pass, "sft.trainer.eval_steps=5", "sft.dev=10")
    none = count("sft", *one_pass, "sft.trainer.eval_steps=1000", "sft.dev=10")
    steps = Plan(new_run()).sft_rows
    assert points[0] - none[0] == pytest.approx((steps // 5) * 10 * THINKING_TOKENS)

    half = count("rl", "rl.expert_iteration.samples=2")
    assert count("rl", "rl.expert_iteration.samples=4")[0] > half[0]
    rounds = count("rl", "rl.expert_iteration.rounds=2")
    assert rounds[1] > count("rl")[1]

    steps = count("rl", "rl.algorithm=grpo", "rl.grpo.trainer.max_steps=6")
    both = count("rl", "rl.algorithm=both", "rl.grpo.trainer.max_steps=6")
    assert both[1] == pytest.approx(steps[1] + count("rl")[1])
    assert count("rl", "rl.algorithm=grpo", "rl.grpo.trainer.max_steps=12")[1] == pytest.approx(2 * steps[1])
    # Six steps of 64 samples, once in place of twice.
    once = count("rl", "rl.algorithm=grpo", "rl.grpo.trainer.max_steps=6", "rl.grpo.max_resample=1")
    assert steps[0] - once[0] == pytest.approx(6 * 64 * THINKING_TOKENS)


def test_later_rounds_ask_again_what_was_not_solved(new_run):
    def count_decoded(rounds):
        few_points = ["rl.dev=1", "rl.expert_iteration.samples=4"]
        return Plan(new_run(f"rl.expert_iteration.rounds={rounds}", *few_points)).count_stage(get_stage("rl"))[0]

    # Of 20 problems, each asked four times: three tenths of a half of them, and the one dev problem.
    assert count_decoded(2) - count_decoded(1) == pytest.approx(THINKING_TOKENS * (20 * 4 * 0.3 / 2 + 1))


def test_what_is_done_is_left_out(finished_run, monkeypatch):
    monkeypatch.setattr(plan, "find_rates", lambda run, rows: RATES)
    assert [line.split()[0] for line in make_plan(finished_run)[1:]] == ["cot"]

    monkeypatch.setattr(plan, "stage_status", lambda run: dict.fromkeys([s.name for s in STAGES], "up to date"))
    assert make_plan(finished_run) == ["plan: all stages are up to date"]


def test_where_only_scoring_is_left_no_training_is_counted(finished_run, monkeypatch):
    monkeypatch.setattr(plan, "find_rates", lambda run, rows: RATES)
    benchmarks = [load("arithmetic_v1", "test", 9)]
    overlaps = {"arithmetic_v1": []}
    run = dataclasses.replace(finished_run, benchmarks=benchmarks, overlaps=overlaps, pretraining_overlaps=overlaps)

    lines = make_plan(run)[1:]
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert all(line.endswith(" tokens decoded, 0 trained on") for line in lines)


def test_the_sum_says_where_it_lacks_the_training_of_a_stage_of_ones_own(finished_run, monkeypatch):
    monkeypatch.setattr(plan, "find_rates", lambda run, rows: RATES)
    own = dataclasses.replace(get_stage("rl"), name="own")
    monkeypatch.setattr(plan, "STAGES", (own,))
    monkeypatch.setattr(plan, "stage_status", lambda run: {"own": "no training yet"})
    monkeypatch.setattr(plan, "list_due_trainings", lambda run: {"own"})
    monkeypatch.setattr(plan, "list_rows", lambda run, stage: [])

    sum_line, own_line = make_plan(finished_run)
    assert "in all, beside the training of own (" in sum_line
    assert own_line.endswith(": 0 tokens decoded, 0 trained on")


def test_a_run_has_its_own_lengths(finished_run, new_run):
    tokens = read_answer_tokens(finished_run)
    assert set(tokens) == {"plain zero-shot", "plain 1-shot", "sft zero-shot", "rl zero-shot", "adaptive zero-shot"}
    assert 0 < tokens["plain zero-shot"] <= 24
    assert read_answer_tokens(new_run()) == {}


def test_rates_are_measured_once(new_run, monkeypatch, tmp_path):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    run = new_run("eval.batch_size=8", "sft.trainer.per_device_train_batch_size=2")
    rates = find_rates(run, Plan(run).rows)
    assert rates["decoded"] > 0
    assert rates["trained"] > 0
    assert rates["source"] == "measured here"

    def measure(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(plan, "measure_decoding", measure)
    assert find_rates(run, []) == rates
    with pytest.raises(AssertionError, match="measured again"):
        find_rates(new_run("eval.batch_size=9"), [])


def test_without_a_gpu_its_rates_are_another_machines(new_run, monkeypatch):
    monkeypatch.setattr(plan.processes, "count_gpus", lambda: 0)
    rates = find_rates(dataclasses.replace(new_run(), profile="gpu"), [])
    assert rates["source"].startswith("not measured here")
