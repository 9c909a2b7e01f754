"""The files that are graded may hold anything: their readers take it, or say in one line what is wrong with it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.files import UserError
from data.problem import (
    Completion,
    Grade,
    Problem,
    read_completions,
    read_grades,
    read_problems,
    record_to_json,
)
from eval.grade import grade

RECORDS = {
    read_problems: Problem("a", "What is 1 + 1?", "2", "number", level=1, rationale="1 + 1 = 2"),
    read_completions: Completion("a", "<think></think>\n\\boxed{2}", 5, 0, 7, "stop"),
    read_grades: Grade("a", True, "2", "correct", True),
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
OPTIONAL_KEYS = ["choices", "meta", "kind", "level", "x"]
OFTEN = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(reader, path):
    """What a reader reads; nothing where it refuses the file, in one line."""
    try:
        return reader(path)
    except UserError as error:
        assert str(error)
        assert "\n" not in str(error).strip()
        return []


@pytest.mark.parametrize("reader", RECORDS)
@OFTEN
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path, reader, content):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)

    read_or_refuse(reader, path)


@pytest.mark.parametrize("reader", RECORDS)
@OFTEN
@given(data=st.data())
def test_records_with_any_of_their_values_changed(tmp_path, reader, data):
    row = record_to_json(RECORDS[reader])
    for key in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[key] = data.draw(VALUES)
    row |= data.draw(st.dictionaries(st.sampled_from(OPTIONAL_KEYS), VALUES, max_size=2))

    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8", errors="backslashreplace")

    # Whatever is read as a problem or a completion can be graded.
    for record in read_or_refuse(reader, path):
        if reader is read_problems:
            grade(record, RECORDS[read_completions])
        elif reader is read_completions:
            grade(RECORDS[read_problems], record)
