"""Readers of what users and machines leave on disk: they take whatever is in a file, or say what is wrong with it."""

import contextlib
import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.records import BadInput, Completion, Grade, Problem, read_completions, read_grades, read_problems, record_json
from pipeline import recipe, runs

RECORDS = {
    read_problems: Problem("a", "What is 1 + 1?", "2", "number", level=1, rationale="1 + 1 = 2"),
    read_completions: Completion("a", "<think></think>\n\\boxed{2}", 5, 0, 7, "stop"),
    read_grades: Grade("a", True, "2", "correct", True),
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
OFTEN = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def taken_or_told(call, *arguments):
    """A reader's answer, or its one line."""
    try:
        call(*arguments)
    except BadInput as error:
        assert "\n" not in str(error).strip() and str(error)


@pytest.mark.parametrize("reader", RECORDS)
@OFTEN
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path, reader, content):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    taken_or_told(reader, path)


@pytest.mark.parametrize("reader", RECORDS)
@OFTEN
@given(data=st.data())
def test_records_with_any_of_their_values_changed(tmp_path, reader, data):
    row = record_json(RECORDS[reader])
    for key in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[key] = data.draw(VALUES)
    row |= data.draw(st.dictionaries(st.sampled_from(["choices", "meta", "kind", "level", "x"]), VALUES, max_size=2))
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8", errors="backslashreplace")
    taken_or_told(reader, path)


TREE = dataclasses.asdict(recipe.Recipe()) | {"adaptive_budget": {"budgets": [8]}}


@OFTEN
@given(data=st.data())
def test_recipes_with_any_of_their_values_changed(data):
    tree = json.loads(json.dumps(TREE))
    for _ in range(data.draw(st.integers(1, 3))):
        node = tree
        key = data.draw(st.sampled_from(sorted(node)))
        if isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
            node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
        node[key] = data.draw(VALUES)
    if data.draw(st.booleans()):
        tree[data.draw(st.text(max_size=8))] = data.draw(VALUES)
    taken_or_told(recipe.build, tree, "a test")


@OFTEN
@given(
    name=st.lists(st.sampled_from([*TREE, *TREE["rl"], *TREE["traces"], "", "x"]), max_size=3).map(".".join)
    | st.text(max_size=12),
    value=st.text(max_size=20) | VALUES.map(json.dumps),
)
def test_overrides_of_any_text(name, value):
    base = dataclasses.replace(recipe.Recipe(), adaptive_budget=recipe.RlSettings(budgets=[8]))
    taken_or_told(recipe.override, base, f"{name}={value}")
    taken_or_told(recipe.override, base, name)


@OFTEN
@given(
    content=st.binary(max_size=200)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(["training", "scoring"]), VALUES).map(lambda value: json.dumps(value).encode())
)
def test_manifests_of_any_bytes(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with contextlib.suppress(BadInput):
        assert isinstance(runs.manifest(tmp_path), dict)
        assert runs.up_to_date(tmp_path, "training", {"base": "x"}) is False
