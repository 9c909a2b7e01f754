"""``make compare``: what is run, what is read, and what is written."""

import argparse
import json
import shutil

import pytest

from data.files import UserError
from pipeline.__main__ import print_seeds
from pipeline.tools.compare import compare


def run_compare(runs, bases=None, folders=None):
    compare(argparse.Namespace(bases=bases, folders=folders, runs=runs))


def test_two_folders_are_compared_stage_by_stage(copy_run, tmp_path, capsys):
    first = copy_run.dir.root
    second = tmp_path / "other"
    shutil.copytree(first, second)
    run_compare(tmp_path, folders=[first, second])

    rows = json.loads((tmp_path / "compare.json").read_text())
    assert capsys.readouterr().out == (tmp_path / "compare.md").read_text()
    assert {row["run"] for row in rows} == {str(first), str(second)}
    assert {row["stage"] for row in rows} == {"plain", "sft", "rl", "adaptive"}
    assert {row["p_vs_first"] for row in rows if row["run"] == str(second)} == {1.0}


def test_all_seeds_of_a_base_are_read(copy_run, tmp_path, capsys):
    first = copy_run.dir.root
    for folder in ("seed-2", "seed-x"):
        shutil.copytree(first, tmp_path / folder)
    for folder in ("seed-2", "seed-x"):
        (tmp_path / folder).rename(first / folder)
    # A seed that has nothing yet.
    (first / "seed-7").mkdir()

    print_seeds(argparse.Namespace(base="mini", runs=tmp_path))
    rows = json.loads((first / "seeds.json").read_text())
    assert capsys.readouterr().out == (first / "seeds.md").read_text()
    assert {row["seeds"] for row in rows} == {2}
    assert {row["accuracy_sd"] for row in rows} == {0.0}
    assert {row["p_vs_previous"] for row in rows if row["stage"] in ("rl", "adaptive")} == {1.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name two"),
        ({"bases": ["nano"]}, "name two"),
        ({"bases": ["nano", "nano"]}, "name two"),
        ({"bases": ["a", "b"], "folders": ["c", "d"]}, "name two"),
        ({"bases": ["q4/model.gguf", "q8/model.gguf"]}, "would share a folder"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        run_compare(tmp_path, **options)


def test_a_folder_that_is_not_there_or_no_run_is_named(copy_run, tmp_path):
    with pytest.raises(UserError, match="absent: no such folder"):
        run_compare(tmp_path, folders=[copy_run.dir.root, tmp_path / "absent"])

    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other: no stage has scores there"):
        run_compare(tmp_path, folders=[copy_run.dir.root, tmp_path / "other"])


def test_all_bases_are_checked_before_the_first_is_trained(tmp_path, monkeypatch):
    opened = []

    def open_run(options):
        if options.base == "absent":
            raise UserError("base 'absent' is unknown")
        opened.append(options.base)

    monkeypatch.setattr("pipeline.tools.compare.open_run", open_run)
    with pytest.raises(UserError, match="'absent' is unknown"):
        run_compare(tmp_path, bases=["nano-tiny", "absent"])
    assert opened == ["nano-tiny"]
