"""Records: what is read from a file, and what is refused."""

import json
import re

import pytest

from data.files import UserError
from data.problem import (
    Completion,
    Grade,
    Problem,
    guess_kind,
    parse_problem,
    read_completions,
    read_grades,
    read_problems,
    record_to_json,
    write_records,
)

GOOD = {"id": "a", "question": "What is 1 + 1?", "answer": 2}
RECORDS = {
    read_problems: Problem("a", "What is 1 + 1?", "2", "number", level=1, rationale="1 + 1 = 2", extra={"x": [1]}),
    read_completions: Completion("a", "<think></think>\n\\boxed{2}", 5, 0, 7, "stop"),
    read_grades: Grade("a", True, None, "correct", True),
}


@pytest.mark.parametrize("reader", RECORDS)
def test_a_record_is_read_as_it_was_written(tmp_path, reader):
    write_records(tmp_path / "records.jsonl", [RECORDS[reader]])
    [record] = reader(tmp_path / "records.jsonl")
    assert record == RECORDS[reader]
    assert record_to_json(record) == record_to_json(RECORDS[reader])


@pytest.mark.parametrize(
    ("answer", "choices", "kind"),
    [
        ("-1,234.5", None, "number"),
        ("50%", None, "number"),
        ("3/4", None, "number"),
        ("Yes", None, "label"),
        ("red", ["red", "blue"], "label"),
        ("x + 1", None, "text"),
        ("3,5,7", None, "text"),
        ("12,345,678", None, "number"),
        (True, None, "label"),
    ],
)
def test_a_kind_is_guessed(answer, choices, kind):
    assert guess_kind(str(answer), choices) == kind
    row = GOOD | {"answer": answer, "choices": choices}
    assert parse_problem(row, "here").kind == kind
    assert parse_problem(row | {"meta": {"answer_kind": "text"}}, "here").kind == "text"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5.0", "5"),
        ("-2.50", "-2.5"),
        ("1e-5", "0.00001"),
        ("6.02e23", "602" + "0" * 21),
        ("1e23", "1" + "0" * 23),
        ("123456789012345678901", "123456789012345678901"),
    ],
)
def test_a_number_of_json_is_the_number_that_it_says(answer, gold):
    problem = parse_problem(GOOD | {"answer": json.loads(answer)}, "here")
    assert (problem.answer, problem.kind) == (gold, "number")


@pytest.mark.parametrize("rationale", ["", " \n", None])
def test_an_empty_rationale_is_none(rationale):
    assert parse_problem(GOOD | {"rationale": rationale}, "here").rationale is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON list, not an object"),
        (json.dumps(GOOD), "already at"),
        (json.dumps({"id": "b", "question": "Why?"}), "'answer' is missing"),
        (json.dumps(GOOD | {"id": "b", "question": " "}), "'question' is missing, empty"),
        (json.dumps(GOOD | {"id": "b", "answer": [3, 4]}), "'answer' is missing, empty or no text"),
        (json.dumps(GOOD | {"id": True}), "'id' is missing, empty or no text"),
        (json.dumps(GOOD | {"id": "b", "kind": "essay"}), "kind 'essay' is unknown"),
        (json.dumps(GOOD | {"id": "b", "choices": "yes"}), "'choices' must be a list"),
        (json.dumps(GOOD | {"id": "b", "choices": []}), "'choices' must be a list"),
        (json.dumps(GOOD | {"id": "b", "level": "hard"}), "'level' must be a whole number"),
        (json.dumps(GOOD | {"id": "b", "level": "9" * 5000}), "'level' must be a whole number"),
        (json.dumps(GOOD | {"id": "b", "rationale": 3}), "'rationale' must be a text"),
        ('{"id": "b", "question": "q", "answer": NaN}', "'answer' is missing, empty or no text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_problems(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert "\n" not in str(error.value)


def test_the_id_of_a_completion_may_be_a_number(tmp_path):
    path = tmp_path / "completions.jsonl"
    row = record_to_json(RECORDS[read_completions])
    path.write_text(json.dumps(row | {"id": 7}))
    assert [completion.id for completion in read_completions(path)] == ["7"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", True),
        ("id", 1.5),
        ("text", 3),
        ("prompt_tokens", True),
        ("prompt_tokens", 1.0),
        ("finish", "eos"),
        ("answer_tokens", None),
    ],
)
def test_a_bad_completion_is_refused(tmp_path, key, value):
    path = tmp_path / "completions.jsonl"
    row = record_to_json(RECORDS[read_completions])
    path.write_text(json.dumps(row | {key: value}))
    with pytest.raises(UserError, match="wrong type|has finish 'eos'; valid: stop, length"):
        read_completions(path)
