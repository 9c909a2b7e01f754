"""Opening a run: what is checked before anything is written."""

import argparse
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from data.datasets import load
from data.files import UserError, write_jsonl
from data.problem import record_to_json, write_records
from pipeline import run as run_module
from pipeline.models.nano import PRETRAINING_FILE
from pipeline.run import (
    check_tracker,
    check_vllm,
    find_contamination,
    find_pretraining_overlaps,
    list_dev_problems,
    load_benchmarks,
    open_results,
    open_run,
    read_recipe,
)
from pipeline.stage_dir import seal
from pipeline.stages.rl import check_guessable


def make_options(**values) -> argparse.Namespace:
    """The options of a command line."""
    options = {
        "base": "nano-tiny",
        "profile": "cpu",
        "runs": Path("runs"),
        "limit": None,
        "seed": None,
        "overrides": [],
        "benchmark": [],
        "allow_overlap": False,
    }
    return argparse.Namespace(**options | values)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory) -> Path:
    """A user's file of 60 problems with solutions."""
    rows = []
    for i in range(60):
        question = f"Box {i} has {i + 3} rows of {2 * i + 5} jars. How many jars are in box {i}?"
        steps = f"{i + 3} * {2 * i + 5} = {(i + 3) * (2 * i + 5)}"
        rows.append({"id": f"box-{i}", "question": question, "answer": (i + 3) * (2 * i + 5), "rationale": steps})

    path = tmp_path_factory.mktemp("own") / "boxes.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> Path:
    """A folder with a reward that fails, and 20 problems whose answers can be guessed; 9 of them are for training."""
    rows = []
    for i in range(20):
        rows.append({"id": f"fact-{i}", "question": f"Is {i} prime?", "answer": "yes", "choices": ["yes", "no"]})

    folder = tmp_path_factory.mktemp("facts")
    write_jsonl(folder / "facts.jsonl", rows)
    write_jsonl(folder / "all.jsonl", rows)
    write_jsonl(folder / "odd.jsonl", [{"id": f"o{i}", "question": f"{i} ?", "answer": "n/a"} for i in range(20)])
    (folder / "broken.py").write_text("def broken(problem, **columns):\n    return [p['absent'] for p in problem]\n")
    return folder


STAGES_WITH_PROBLEMS = ("sft", "rl", "adaptive")


def use_file(path: Path) -> list[str]:
    """Overrides that train every stage on a file."""
    return [f"{section}.problems=[{{set: {path}}}]" for section in (*STAGES_WITH_PROBLEMS, "traces")]


def test_options_become_the_recipe():
    recipe = read_recipe(make_options(limit=7, seed=3, overrides=["eval.limit=9", "seed=5", "sft.dev=4"]))

    assert recipe.eval.limit == 7
    assert recipe.seed == 3
    assert recipe.stages["sft"].dev == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"limit": 0}, "eval.limit: must be greater than or equal to 1"),
        ({"seed": -1}, "seed: must be greater than or equal to 0"),
        ({"profile": "gpux"}, "did you mean gpu?"),
    ],
)
def test_wrong_options_are_named(values, words):
    with pytest.raises(UserError) as refusal:
        read_recipe(make_options(**values))
    assert words in str(refusal.value)


def test_another_seed_has_a_folder_of_its_own():
    first = open_results(make_options())
    second = open_results(make_options(seed=2))

    assert first.root == Path("runs/nano-tiny")
    assert second.root == Path("runs/nano-tiny/seed-2")


OURS = ["sums_v1", "booleans_v1"]


def test_benchmarks_are_those_of_the_recipe_where_none_is_named(own_file):
    ours = load_benchmarks(OURS, 10)
    named = load_benchmarks([f"{own_file}?split=test", "logic_v1"], 5)

    assert read_recipe(make_options(base="nano")).eval.benchmarks == OURS
    assert [dataset.name for dataset in ours] == OURS
    assert [len(dataset.problems) for dataset in ours] == [10, 10]
    assert [dataset.name for dataset in named] == ["boxes", "logic_v1"]


def test_two_benchmarks_of_one_name_are_refused(own_file):
    with pytest.raises(UserError, match="two have the same name"):
        load_benchmarks([str(own_file), str(own_file)], 5)


def test_our_own_sets_do_not_overlap():
    recipe = read_recipe(make_options())
    overlaps = find_contamination(recipe, load_benchmarks(OURS, 1000), allow_overlap=False)
    assert overlaps == {"sums_v1": [], "booleans_v1": []}


def test_a_file_that_is_trained_on_is_scored_by_its_test_share_only(own_file):
    recipe = read_recipe(make_options(overrides=use_file(own_file)))

    with pytest.raises(UserError) as refusal:
        find_contamination(recipe, load_benchmarks([str(own_file)], 60), allow_overlap=False)
    assert "of its problems are in the training data" in str(refusal.value)
    assert f"--benchmark '{own_file}?split=test'" in str(refusal.value)

    allowed = find_contamination(recipe, load_benchmarks([str(own_file)], 60), allow_overlap=True)
    assert allowed["boxes"]

    test_share = load_benchmarks([f"{own_file}?split=test"], 60)
    assert find_contamination(recipe, test_share, allow_overlap=False) == {"boxes": []}


def test_a_single_section_that_trains_on_a_benchmark_is_noticed(own_file):
    for section in ("rl", "adaptive", "traces"):
        recipe = read_recipe(make_options(overrides=[f"{section}.problems=[{{set: {own_file}}}]"]))
        with pytest.raises(UserError, match="are in the training data"):
            find_contamination(recipe, load_benchmarks([str(own_file)], 60), allow_overlap=False)


def test_solutions_that_give_dev_problems_away_are_refused(tmp_path):
    problem = load("sums_v1", "dev").problems[0]
    row = record_to_json(problem) | {"id": "leak"}
    solutions = tmp_path / "solutions.jsonl"
    solutions.write_text(json.dumps(row) + "\n")

    recipe = read_recipe(make_options(overrides=[f"sft.solutions=['short:127','{solutions}:1']"]))
    with pytest.raises(UserError) as refusal:
        find_contamination(recipe, load_benchmarks(OURS, 5), allow_overlap=False)
    assert f"leak has the same text as {problem.id}, a dev problem" in str(refusal.value)


def test_a_data_set_that_gives_dev_problems_of_another_away_is_refused(tmp_path):
    dev = load("sums_v1", "dev").problems[:40]
    leak = tmp_path / "leak.jsonl"
    write_jsonl(leak, [record_to_json(problem) | {"id": f"leak-{i}"} for i, problem in enumerate(dev)])

    recipe = read_recipe(make_options(overrides=[f"sft.problems=['{leak}']"]))
    with pytest.raises(UserError, match="has the same text as sums_v1-dev-.*, a dev problem"):
        find_contamination(recipe, load_benchmarks(OURS, 5), allow_overlap=False)


def test_near_duplicates_within_one_set_are_no_leak(tmp_path):
    # One template: whatever their split, they differ in the name alone.
    rows = []
    for name in ("Ann", "Bob", "Cem", "Dora", "Eve", "Finn", "Gus", "Hal", "Ivo", "Jan", "Kim", "Leo", "Mia", "Ned"):
        rows.append({"id": name, "question": f"{name} has 12 pears and 30 more. How many?", "answer": "42"})
    file = tmp_path / "names.jsonl"
    write_jsonl(file, rows)

    recipe = read_recipe(make_options(overrides=use_file(file)))
    assert find_contamination(recipe, load_benchmarks(OURS, 5), allow_overlap=False)


def test_the_gate_looks_at_the_dev_problems_of_all_levels():
    # A stage of two levels still compares its adapters on all.
    overrides = [f"{name}.problems=['arithmetic_v1?split=train&take=9&levels=1,2']" for name in STAGES_WITH_PROBLEMS]
    problems = list_dev_problems(read_recipe(make_options(overrides=overrides)))
    assert {problem.level for problem in problems} == {1, 2, 3, 4, 5}


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    check_tracker("none")
    with pytest.raises(UserError, match="report_to=wandb: the package is not installed; run: pip install wandb"):
        check_tracker("wandb")


def test_vllm_that_is_not_installed_is_refused_where_it_is_used(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    overrides = ["rl.grpo.trainer.use_vllm=true"]

    check_vllm(read_recipe(make_options(overrides=overrides)).stages["rl"])
    with pytest.raises(UserError, match="use_vllm: vLLM is not installed; see docs/machines.md"):
        open_run(make_options(overrides=[*overrides, "rl.algorithm=grpo"]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"overrides": ["sft.trainer.learning_rat=1"]}, "did you mean learning_rate?"),
        ({"overrides": ["rl.rewards=[correctnes]"]}, "correctnes"),
        ({"benchmark": ["absent.jsonl"]}, "no such file"),
        ({"overrides": ["rl.rewards=[broken.py:broken]"]}, "it fails on a right answer (KeyError: 'absent'); fix it"),
        ({"overrides": ["cot.examples=[{set: facts.jsonl}]"]}, "cot.examples: fact-0 has no worked solution"),
        (
            {"overrides": ["rl.problems=[{set: odd.jsonl, kind: number}]"]},
            "rl.problems (odd.jsonl): the answer 'n/a' of 'o",
        ),
        ({"benchmark": ["all.jsonl"]}, "'all' is the table's name for all of them together"),
        ({"base": "nano-tinu"}, "did you mean nano-tiny?"),
        (
            {"overrides": ["rl.problems=[{set: facts.jsonl}]", "rl.expert_iteration.require_checked_steps=true"]},
            "rl.problems: the answers of all 9 problems, such as fact-0, can be guessed, and no step to them",
        ),
    ],
)
def test_a_run_that_will_not_do_is_refused_before_its_base_is_made(tmp_path, monkeypatch, facts, values, words):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(facts)

    with pytest.raises(UserError, match=re.escape(words)):
        open_run(make_options(runs=tmp_path / "runs", **values))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        "rl.algorithm=grpo",
        "rl.problems=['facts.jsonl','logic_v1?split=train&take=9']",
        "rl.problems=['facts.jsonl','arithmetic_v1?split=train&take=1']",
    ],
)
def test_answers_that_can_be_guessed_are_taken_by_grpo_and_beside_others(monkeypatch, facts, change):
    monkeypatch.chdir(facts)
    overrides = ["rl.problems=[{set: facts.jsonl}]", "rl.expert_iteration.require_checked_steps=true", change]
    recipe = read_recipe(make_options(overrides=overrides))
    check_guessable(recipe, recipe.stages["rl"])


def test_results_are_opened_without_the_checks_of_a_training(monkeypatch, tmp_path):
    def fail(*arguments):
        raise AssertionError("checked")

    for name in ("check_trainers", "check_rewards", "find_contamination", "check_base"):
        monkeypatch.setattr(run_module, name, fail)
    monkeypatch.setattr(run_module, "resolve", lambda base: tmp_path)
    monkeypatch.setattr(run_module, "fingerprint", lambda folder: "abc")

    run = open_run(make_options(runs=tmp_path), for_training=False)
    assert run.dir.root == tmp_path / "nano-tiny"
    assert run.overlaps == run.pretraining_overlaps == {}


def test_two_bases_whose_files_have_one_name_do_not_share_a_folder(monkeypatch, tmp_path):
    answers = {"base": "q4/model.gguf", "inputs": {"base": "abc"}}
    seal(tmp_path / "model" / "plain", [], answers, "scoring")
    monkeypatch.setattr(run_module, "resolve", lambda base: tmp_path)
    monkeypatch.setattr(run_module, "fingerprint", lambda folder: "def")

    with pytest.raises(UserError, match=r"model: it has the results of another base, q4/model\.gguf; give q8/model"):
        open_run(make_options(runs=tmp_path, base="q8/model.gguf"), for_training=False)

    # One that was trained on it, and not scored yet.
    shutil.rmtree(tmp_path / "model" / "plain")
    seal(tmp_path / "model" / "sft", [], answers, "training")
    with pytest.raises(UserError, match="the results of another base"):
        open_run(make_options(runs=tmp_path, base="q8/model.gguf"), for_training=False)

    # The file was changed, or moved.
    open_run(make_options(runs=tmp_path, base="./q4/model.gguf"), for_training=False)
    open_run(make_options(runs=tmp_path, base="q4/model.gguf"), for_training=False)
    monkeypatch.setattr(run_module, "fingerprint", lambda folder: "abc")
    open_run(make_options(runs=tmp_path, base="q8/model.gguf"), for_training=False)


def test_the_gate_looks_at_what_a_base_was_pretrained_on(tmp_path, own_file):
    benchmarks = load_benchmarks([str(own_file), "sums_v1"], 1000)
    assert find_pretraining_overlaps(tmp_path, benchmarks, allow_overlap=False) == {"boxes": [], "sums_v1": []}

    leaks = [*benchmarks[0].problems[:2], *load("sums_v1", "train").problems[:500]]
    write_records(tmp_path / PRETRAINING_FILE, leaks)
    with pytest.raises(UserError, match="boxes: 2 of its problems are in the training data: box-0 has the same text"):
        find_pretraining_overlaps(tmp_path, benchmarks, allow_overlap=False)

    allowed = find_pretraining_overlaps(tmp_path, benchmarks, allow_overlap=True)
    assert len(allowed["boxes"]) == 2
    assert allowed["sums_v1"] == []
