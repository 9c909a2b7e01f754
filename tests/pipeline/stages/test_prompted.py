"""The examples that a few-shot prompt shows."""

import pytest

from data.dataset_spec import parse_spec
from data.datasets import load, load_spec, load_train
from data.files import UserError, write_jsonl
from data.splits import normalize_text, split_of
from pipeline.settings import PromptedSettings
from pipeline.stages.prompted import load_examples


def test_few_shot_examples_come_from_each_set_that_the_recipe_names_in_turn():
    specs = [parse_spec("arithmetic_v1"), parse_spec("logic_v1?take=1")]
    settings = PromptedSettings(shots=[0, 4], examples=specs)
    examples = load_examples(load("logic_v1", "test", 3), settings, "cot")

    first, second, third = load_train(parse_spec("arithmetic_v1"), 3)
    assert examples == [first, *load_train(parse_spec("logic_v1"), 1), second, third]


def test_fewer_examples_than_are_to_be_shown_are_refused():
    settings = PromptedSettings(shots=[0, 4], examples=[parse_spec("logic_v1?take=3")])
    with pytest.raises(UserError, match="cot.examples: they have 3 problems for the 4 of cot.shots"):
        load_examples(load("logic_v1", "test", 3), settings, "cot")


@pytest.mark.parametrize(("answer", "ours"), [("4", "arithmetic_v1"), ("yes", "logic_v1")])
@pytest.mark.parametrize("split", ["", "?split=test"])
@pytest.mark.parametrize("train", ["without steps", "one line", "none"])
def test_where_a_benchmark_has_too_few_worked_examples_ours_of_its_kind_are_shown(tmp_path, answer, ours, split, train):
    rows = [{"id": f"p{i}", "question": f"Why {i}?", "answer": answer} for i in range(40)]
    if train != "without steps":
        of_train = [row for row in rows if split_of(normalize_text(row["question"])) == "train"]
        of_test = [row for row in rows if split_of(normalize_text(row["question"])) == "test"]
        rows = [row | {"rationale": "Because."} for row in of_test + of_train[: train == "one line"]]
    write_jsonl(tmp_path / "own.jsonl", rows)
    benchmark = load_spec(parse_spec(f"{tmp_path / 'own.jsonl'}{split}"))

    shown = load_examples(benchmark, PromptedSettings(shots=[2], examples=None), "cot")
    assert shown == load_train(parse_spec(ours), 2)
