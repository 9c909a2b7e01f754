"""Benchmarks by name, by file with other field names, and from the hub."""

import json

import pytest

from data.records import BadInput
from data.sets import BUILT_IN, read

GSM8K = {"question": "How many?", "answer": "Half of 96 is 96/2 = <<96/2=48>>48.\n#### 1,048"}
SVAMP = {"ID": "chal-1", "question_concat": "Dan had 4. He lost 3. How many?", "Answer": "1.0", "Type": "Subtraction"}
BBH = {"input": "not ( True ) is", "target": "False"}


def file(tmp_path, *rows, name="copy.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_our_own_go_by_name():
    benchmark = read("logic_v1")
    assert benchmark.name == "logic_v1" and len(benchmark.problems) == 500 == len(benchmark.places)


@pytest.mark.parametrize(
    ("name", "row", "answer", "kind"),
    [
        ("gsm8k", GSM8K, "1,048", "number"),
        ("svamp", SVAMP, "1.0", "number"),
        ("bbh_boolean_expressions", BBH, "False", "label"),
    ],
)
def test_a_set_of_the_hub_is_read_from_a_local_copy(tmp_path, name, row, answer, kind):
    benchmark = read(f"{name}?file={file(tmp_path, row)}")
    [problem] = benchmark.problems
    assert (benchmark.name, problem.answer, problem.kind) == (name, answer, kind)
    assert problem.question in row.values()
    if name == "gsm8k":
        assert problem.rationale == "Half of 96 is 96/2 = <<96/2=48>>48."
    if name == "bbh_boolean_expressions":
        assert problem.choices == ("True", "False")


def test_a_set_of_the_hub_is_asked_for_by_name_config_and_split(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((*args, kwargs))
        return datasets.Dataset.from_list([GSM8K, GSM8K])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    mapped = read("openai/gsm8k?config=main&split=train&after=####&revision=abc")
    named = read("gsm8k")
    assert asked == [
        ("openai/gsm8k", "main", {"split": "train", "revision": "abc"}),
        ("openai/gsm8k", "main", {"split": "test", "revision": None}),
    ]
    assert (mapped.name, named.name) == ("gsm8k_main", "gsm8k")
    assert [p.id for p in named.problems] == ["0", "1"] and named.places["1"] == "openai/gsm8k test, row 1"
    assert len(named.sha256) == 64


def test_fields_go_by_other_names_and_are_joined(tmp_path):
    path = file(
        tmp_path, {"passage": "A cat. ", "q": "Who?", "a": "cat"}, {"passage": "A dog.", "q": "Who?", "a": "dog"}
    )
    benchmark = read(f"{path}?question=passage,q&answer=a")
    assert [(p.id, p.question, p.answer) for p in benchmark.problems] == [
        ("0", "A cat. Who?", "cat"),
        ("1", "A dog. Who?", "dog"),
    ]
    assert read(f"{path}?question=q&answer=a").sha256 != benchmark.sha256  # other problems, though the same file


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gsm9k", "did you mean gsm8k"),
        ("{file}?question=body", "copy.jsonl:1: no field 'body'"),
        ("{file}?answr=a", "did you mean answer"),
        ("{file}?answer", "'answer' is no key or has no value"),
        ("{file}?after=####", "copy.jsonl:1: the answer holds no '####'"),
        ("{file}?file=x", "goes with a built-in set"),
        ("nowhere.jsonl", "no such file"),
        ("{twice}?id=id", "twice.jsonl:2"),
        ("{same}?id=question", "same.jsonl:2: id 'q' is already at"),
    ],
)
def test_a_bad_name_or_mapping_is_one_line(tmp_path, spec, says):
    row = {"id": "a", "question": "q", "answer": "1"}
    same = file(tmp_path, row, row | {"id": "b"}, name="same.jsonl")
    spec = spec.format(file=file(tmp_path, row), twice=file(tmp_path, row, row, name="twice.jsonl"), same=same)
    with pytest.raises(BadInput) as error:
        read(spec)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for spec in (*BUILT_IN, "nobody/nothing"):
        with pytest.raises(BadInput, match=r"the hub does not give it \(no route\); .*local copy") as error:
            read(spec)
        assert "\n" not in str(error.value)
