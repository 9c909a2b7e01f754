"""Files as their publishers ship them, read by the entries of the table in docs/extending.md."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
import yaml

from data.dataset_spec import DatasetSpec, parse_spec
from data.files import UserError
from data.problem import Completion, read_problems
from eval.grade import grade, load_benchmark

EXTENDING = Path(__file__).parents[2] / "docs" / "extending.md"
ENTRIES = dict(re.findall(r"^\| (.+?) \| `(\{set: .+\})` \|$", EXTENDING.read_text(), re.M))

AI2_ARC = {
    "id": "Mercury_7",
    "question": {
        "stem": "Which is hot?",
        "choices": [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}],
    },
    "answerKey": "B",
}
HUB_ARC = {
    "id": "NYSEDREGENTS_1",
    "question": "How many legs has a spider?",
    "choices": {"text": ["2", "8", "1", "6"], "label": ["1", "2", "3", "4"]},
    "answerKey": "2",
}
DATE = "Today is 5/1. What is tomorrow?\nOptions:\n(A) 4/1\n(B) 6/1\n(C) 7/1"
FOLIO = {"premises": ["All cats purr.", "Tom is a cat."], "conclusion": "Tom purrs.", "label": "Uncertain"}
GSM = {"question": "How many?", "answer": "Half of 96 is 96/2 = <<96/2=48>>48.\n#### 1,048"}
LOGIC = {
    "id": "P_1",
    "context": "Max is a cat. Cats are mean.",
    "question": "Is it true that Max is mean?",
    "options": ["A) True", "B) False"],
    "answer": "B",
    "explanation": ["Max is a cat.", "Max is mean."],
}
MATH = {
    "problem": "Solve.",
    "solution": "It is $\\boxed{3,5,7}$.",
    "answer": "3,5,7",
    "subject": "Algebra",
    "level": 5,
    "unique_id": "test/algebra/1.json",
}
MULTIARITH = {"iIndex": 0, "sQuestion": "How many?", "lEquations": ["X=3+4"], "lSolutions": [7.0]}
MMLU = {"question": "What is 1 + 2?", "subject": "algebra", "choices": ["2", "1", "3", "4"], "answer": 2}

# The row of the table, what is in the file, and the kind, the gold and another right answer of its first problem.
RAW = [
    ("SVAMP", [{"ID": "chal-1", "Body": "Dan had 8.", "Question": "How many?", "Answer": 5.0}], "number", "5", "5.0"),
    ("MultiArith, SingleEq", [MULTIARITH], "number", "7", "7 apples"),
    ("GSM8K", GSM, "number", "1,048", "1048"),
    ("GSM-Symbolic", GSM | {"id": 0, "instance": 3}, "number", "1,048", "1048"),
    ("MATH-500", MATH, "text", "3,5,7", "3, 5, 7"),
    ("MATH-500", MATH | {"level": "Level 5", "answer": "\\frac{1}{2}"}, "text", "\\frac{1}{2}", "1/2"),
    ("BIG-Bench Hard", {"canary": "x", "examples": [{"input": DATE, "target": "(B)"}]}, "label", "6/1", "(B)"),
    (
        "BIG-Bench Hard",
        {"examples": [{"input": "Is it?\nOptions:\n- valid \n- invalid", "target": "invalid"}]},
        "label",
        "invalid",
        "Invalid.",
    ),
    ("BIG-Bench Hard, yes or no", {"examples": [{"input": "Is it?", "target": "Yes"}]}, "label", "yes", "Yes"),
    ("FOLIO", FOLIO, "label", "Uncertain", "C"),
    ("FOLIO", FOLIO | {"premises": "All cats purr.\nTom is a cat.", "label": "True"}, "label", "True", "A"),
    ("ProntoQA, LogicalDeduction of Logic-LLM", [LOGIC], "label", "False", "B"),
    (
        "ProntoQA, LogicalDeduction of Logic-LLM",
        [LOGIC | {"options": ["A) The red is left.", "B) The blue is left."], "answer": "A"}],
        "label",
        "The red is left.",
        "A) The red is left",
    ),
    ("ARC", AI2_ARC, "label", "fire", "B"),
    ("ARC of the hub", HUB_ARC, "number", "8", "8 legs"),
    ("MMLU", MMLU, "number", "3", "C"),
    ("BoolQ", {"question": "is it red", "title": "x", "answer": True, "passage": "It is."}, "label", "yes", "true"),
]


def write_raw(tmp_path, raw):
    """One object alone is a line of JSONL, all else is one JSON document over several lines."""
    path = tmp_path / "raw.json"
    is_line = isinstance(raw, dict) and "examples" not in raw
    path.write_text(json.dumps(raw, indent=None if is_line else 1) + "\n")
    return path


def read_raw(tmp_path, name, raw):
    path = write_raw(tmp_path, raw)
    return load_benchmark(DatasetSpec(**yaml.safe_load(ENTRIES[name]) | {"set": str(path)})).problems


def fail(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "raw", "kind", "gold", "other"), RAW)
def test_a_raw_file_is_read_and_can_be_graded(tmp_path, name, raw, kind, gold, other):
    [problem] = read_raw(tmp_path, name, raw)
    assert (problem.kind, problem.answer) == (kind, gold)

    for answer in (gold, other):
        assert grade(problem, Completion("x", f"\\boxed{{{answer}}}", 1, 0, 1, "stop")).correct, answer
    for answer in ("5/9", "zebra"):
        assert not grade(problem, Completion("x", f"\\boxed{{{answer}}}", 1, 0, 1, "stop")).correct, answer


def test_each_entry_of_the_table_has_its_raw_file():
    assert set(ENTRIES) == {name for name, *_ in RAW}


def test_a_raw_file_keeps_its_texts_apart(tmp_path):
    [folio] = read_raw(tmp_path, "FOLIO", FOLIO)
    assert folio.question.startswith("All cats purr.\nTom is a cat.\n")
    assert folio.question.endswith(" Tom purrs.")
    assert folio.choices == ("True", "False", "Uncertain")

    [logic] = read_raw(tmp_path, "ProntoQA, LogicalDeduction of Logic-LLM", [LOGIC])
    assert (logic.choices, logic.question) == (("True", "False"), f"{LOGIC['context']} {LOGIC['question']}")
    [math] = read_raw(tmp_path, "MATH-500", MATH | {"level": "Level 5"})
    assert (math.id, math.level, math.family, math.rationale) == (
        MATH["unique_id"],
        5,
        "Algebra",
        MATH["solution"],
    )
    [gsm] = read_raw(tmp_path, "GSM-Symbolic", GSM | {"id": 0, "instance": 3})
    assert (gsm.id, gsm.rationale) == ("0-3", "Half of 96 is 96/2 = <<96/2=48>>48.")
    [date] = read_raw(tmp_path, "BIG-Bench Hard", {"examples": [{"input": DATE, "target": "(B)"}]})
    assert (date.choices, date.question) == (("4/1", "6/1", "7/1"), DATE)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("SVAMP", [{"ID": "1", "Body": None, "Question": "q", "Answer": 1.0}], "row 0: 'Body' is no text"),
        ("MultiArith, SingleEq", [MULTIARITH | {"lSolutions": [7.0, 8.0]}], "row 0: 'answer' is missing, empty"),
        ("MultiArith, SingleEq", [MULTIARITH, MULTIARITH], "row 1: id '0' is already at"),
        ("BIG-Bench Hard", {"examples": [{"input": "Why?", "target": "(A)"}]}, "row 0: 'choices' must be a list"),
        ("BIG-Bench Hard", {"examples": [{"input": DATE, "target": "(D)"}]}, "row 0: the answer '(D)' of "),
        ("ARC", AI2_ARC | {"question": {"stem": "q"}}, "raw.json:1: no field 'question.choices'"),
        ("ARC", AI2_ARC | {"question": "q"}, "raw.json:1: no field 'question.stem'"),
        ("ARC of the hub", HUB_ARC | {"choices": {"text": ["a", "b"], "label": ["A"]}}, "a text and a label each"),
        ("MMLU", MMLU | {"choices": ["a", "b", "c", "d", "e"]}, "a text and a label each"),
        ("BoolQ", {"question": "q", "passage": "p", "answer": None}, "raw.json:1: 'answer' is missing"),
    ],
)
def test_what_a_raw_file_lacks_is_one_line(tmp_path, name, raw, message):
    assert message in fail(read_raw, tmp_path, name, raw)


def test_a_raw_file_without_a_mapping_names_what_it_needs(tmp_path):
    assert "no field 'question'; name it by question=FIELD; valid: ID, Body" in fail(
        load_benchmark, str(write_raw(tmp_path, [{"ID": "1", "Body": "b", "Answer": 1.0}]))
    )
    assert "answer 2 is ambiguous: '2' by its text, '3' by its index" in fail(
        load_benchmark, str(write_raw(tmp_path, MMLU))
    )


def test_a_field_is_left_out(tmp_path):
    path = tmp_path / "mine.jsonl"
    row = {"id": "a", "question": "q", "answer": "so\n#### 5", "level": "hard", "choices": "two", "rationale": 3}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    problems = load_benchmark(f"{path}?level=none&choices=none&rationale=none&id=none").problems
    assert [(p.id, p.answer, p.level, p.choices, p.rationale) for p in problems] == [
        ("mine-all-0", "5", 0, None, None),
        ("mine-all-1", "5", 0, None, None),
    ]
    assert "'level' must be a whole number" in fail(load_benchmark, f"{path}?choices=none&rationale=none")


def test_a_list_of_texts_is_its_lines(tmp_path):
    path = write_raw(tmp_path, LOGIC)
    [problem] = load_benchmark(f"{path}?choices=options&rationale=explanation").problems
    assert problem.rationale == "Max is a cat.\nMax is mean."


def test_a_benchmark_may_come_through_a_pipe(tmp_path):
    code = "from data.datasets import load; d = load('/dev/stdin'); print(d.name, len(d.problems), d.sha256)"
    line = b'{"id": "a", "question": "q", "answer": 5}\n'
    read = subprocess.run([sys.executable, "-c", code], input=line, capture_output=True, check=True)
    name, count, sha256 = read.stdout.decode().split()
    assert (name, count) == ("stdin", "1")
    # A pipe can be read only once.
    assert sha256 != hashlib.sha256(b"").hexdigest()


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "question": "q", "answer": "3,500"}\n')
    assert [problem.kind for problem in read_problems(path)] == ["number"]
    assert [problem.id for problem in load_benchmark(str(path)).problems] == ["a"]


def test_a_spec_without_labels_is_written_as_before_there_were_any():
    adapter = pydantic.TypeAdapter(DatasetSpec)
    assert "labels" not in adapter.dump_python(parse_spec("mmlu.jsonl"))
    assert adapter.dump_python(parse_spec("mmlu.jsonl?labels=0,1"))["labels"] == "0,1"
