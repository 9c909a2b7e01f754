"""Which problems a stage takes: first those that sft has not seen, and never another order from one run to the next."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest

from data.dataset_spec import DatasetSpec, parse_spec
from data.datasets import load_dev, load_spec, load_train
from data.files import UserError, write_jsonl
from data.problem import record_to_json
from pipeline.stages.problems import (
    all_training_problems,
    hash_sources,
    select_dev_problems,
    select_problems,
    select_stage_problems,
)

ARITHMETIC = DatasetSpec(set="arithmetic_v1", split="train")
LOGIC = DatasetSpec(set="logic_v1", split="train")


def take(spec: DatasetSpec, count: int | None) -> DatasetSpec:
    """The same data set, with another ``take``."""
    fields = {name: getattr(spec, name) for name in ("set", "split", "question")}
    return DatasetSpec(**fields, take=count)


def list_ids(problems) -> list[str]:
    return [problem.id for problem in problems]


@pytest.fixture
def file(tmp_path) -> DatasetSpec:
    """A file of 40 problems, named as a data set for training."""
    rows = [{"id": f"p{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(40)]
    path = tmp_path / "sums.jsonl"
    write_jsonl(path, rows)
    return DatasetSpec(set=str(path), split="all")


def make_recipe(**sections) -> SimpleNamespace:
    traces = SimpleNamespace(problems=[take(LOGIC, 3)])
    return SimpleNamespace(stages=sections, traces=traces)


def test_later_stages_take_first_what_sft_has_not_seen():
    sft = [take(ARITHMETIC, 150), take(LOGIC, 50)]
    selected = select_problems([take(ARITHMETIC, 40), take(LOGIC, 20)], sft)

    expected = load_train(ARITHMETIC, 190)[150:] + load_train(LOGIC, 70)[50:]
    assert list_ids(selected) == list_ids(expected)


def test_what_sft_left_is_evened_out_over_the_levels():
    sft = [DatasetSpec(set="arithmetic_v1", split="train", take=200, levels="1,2")]
    selected = select_problems([take(ARITHMETIC, 65)], sft)

    assert not set(list_ids(selected)) & set(list_ids(select_problems(sft)))
    assert Counter(problem.level for problem in selected) == {1: 13, 2: 13, 3: 13, 4: 13, 5: 13}


@pytest.mark.parametrize("spec", ["sums_v1?split=train&levels=1&take=500", "arithmetic_v1?levels=3&take=5"])
def test_fewer_than_were_asked_for_and_the_same_ones_twice_are_refused(spec):
    specs = [parse_spec("arithmetic_v1?take=50"), parse_spec(spec)]
    words = "sums_v1: has only [0-9]+ problems to take, not 500; lower take"
    if spec.startswith("arithmetic"):
        words = "problems: 2 entries take the same problem 'arithmetic.+'; give them other levels"

    with pytest.raises(UserError, match=words):
        select_problems(specs)


def test_what_sft_has_seen_comes_last_where_there_is_nothing_else(file):
    everything = list_ids(load_train(file, None))
    seen = list_ids(select_problems([take(file, 10)]))
    selected = list_ids(select_problems([take(file, None)], [take(file, 10)]))

    assert sorted(selected) == sorted(everything)
    assert set(selected[-10:]) == set(seen)


def test_what_a_file_of_solutions_has_counts_as_seen(file, tmp_path):
    solved = load_train(file, None)[:20]
    rows = [record_to_json(problem) | {"id": f"{problem.id}#2"} for problem in solved]
    write_jsonl(tmp_path / "own.jsonl", rows)

    section = SimpleNamespace(
        problems=[take(ARITHMETIC, 9)], solutions=["procedure:1", f"{tmp_path / 'own.jsonl'}:0.5"]
    )
    recipe = make_recipe(sft=section)
    selected = select_stage_problems(recipe, "rl", SimpleNamespace(problems=[take(file, 8)]))
    assert not set(list_ids(selected)) & set(list_ids(solved))


def test_only_the_same_data_set_counts_as_seen(file, tmp_path):
    rows = [record_to_json(problem) for problem in load_spec(file).problems]
    write_jsonl(tmp_path / "copy.jsonl", rows)
    copy = DatasetSpec(set=str(tmp_path / "copy.jsonl"), split="all")

    alone = select_problems([take(file, 10)])
    assert list_ids(select_problems([take(file, 10)], [take(copy, 10)])) == list_ids(alone)


def test_sft_takes_its_problems_from_the_start():
    section = SimpleNamespace(problems=[take(ARITHMETIC, 12)], solutions=["procedure"])
    recipe = make_recipe(sft=section, rl=section)

    first = list_ids(select_stage_problems(recipe, "sft", section))
    assert first == list_ids(load_train(ARITHMETIC, 12))
    others = list_ids(select_stage_problems(recipe, "rl", section))
    assert len(set(others) - set(first)) == 12


def test_dev_problems_are_the_first_of_each_set_and_of_no_set_twice():
    specs = [take(ARITHMETIC, 5), take(ARITHMETIC, 9), take(LOGIC, 5)]
    expected = load_dev(ARITHMETIC, 7) + load_dev(LOGIC, 7)
    assert list_ids(select_dev_problems(specs, 7)) == list_ids(expected)


def test_the_hashes_name_every_share_of_a_set_that_is_taken(file):
    dev = dataclasses.replace(file, split="dev")
    both = hash_sources([file, dev])[file.set]
    assert both == [*hash_sources([file])[file.set], *hash_sources([dev])[file.set]]
    assert len(both) == 4


def test_no_dev_problem_of_a_file_is_trained_on(file):
    dev = set(list_ids(load_dev(file, 40)))
    assert dev
    assert not dev & set(list_ids(select_problems([file])))


def test_one_id_for_two_problems_is_refused(tmp_path):
    specs = []
    for name, sign in (("a", "+"), ("b", "-")):
        rows = [{"id": f"p{i}", "question": f"What is {i} {sign} 1?", "answer": str(i)} for i in range(400)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        specs.append(DatasetSpec(set=str(tmp_path / f"{name}.jsonl"), split="all"))

    for select in (select_problems, select_dev_problems):
        assert select(specs[:1])
        with pytest.raises(UserError, match=r"the id 'p\d+' stands for two problems"):
            select(specs)


def test_the_gate_sees_the_problems_of_every_section(file):
    recipe = make_recipe(
        plain=SimpleNamespace(shots=[0]),
        sft=SimpleNamespace(problems=[take(ARITHMETIC, 4)], solutions=["procedure"]),
        rl=SimpleNamespace(problems=[take(ARITHMETIC, 2)]),
        toy=SimpleNamespace(problems=[file]),
    )
    seen = list_ids(all_training_problems(recipe))

    assert seen[:4] == list_ids(load_train(ARITHMETIC, 4))
    assert seen[4:6] == list_ids(load_train(ARITHMETIC, 6)[4:])
    assert set(list_ids(load_train(file, None))) < set(seen)
    assert seen[-3:] == list_ids(load_train(LOGIC, 3))
    assert len(seen) == len(set(seen))
