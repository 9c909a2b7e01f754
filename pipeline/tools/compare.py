"""``make compare``: all stages on several bases, or finished runs of two recipes, in one table."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.files import UserError, write_json, write_text
from eval.compare import compare_runs, to_markdown
from eval.run_view import RunView
from pipeline.models.load import base_folder_name
from pipeline.run import open_run
from pipeline.run_dir import RunDir
from pipeline.stages import STAGES
from pipeline.stages.run import run_stage


def compare(options: argparse.Namespace) -> None:
    """Compare what the command line names, and print the table.

    Raises:
        UserError: where it names neither bases nor folders, or both, or fewer than two.
    """
    names = options.bases or options.folders or []
    are_both_named = options.bases and options.folders
    if are_both_named or len(set(names)) < 2:
        raise UserError("compare: name two bases or more (--bases), or two folders of finished runs (--folders)")

    runs = run_bases(options) if options.bases else read_folders(options.folders)
    rows = compare_runs(runs)
    text = to_markdown(rows)
    write_json(options.runs / "compare.json", rows)
    write_text(options.runs / "compare.md", text)
    print(text, end="")


def run_bases(options: argparse.Namespace) -> list[RunView]:
    """Bring all stages of each base up to date; return the runs under the bases' names."""
    folders = [base_folder_name(base) for base in options.bases]
    if len(set(folders)) < len(folders):
        raise UserError(f"--bases: two would share a folder ({', '.join(folders)}); rename a file or a folder")

    # All are checked before the first is trained.
    runs = {}
    for base in options.bases:
        base_options = argparse.Namespace(**vars(options) | {"base": base})
        runs[base] = open_run(base_options)

    views = []
    for base, run in runs.items():
        with run.dir.lock():
            for stage in STAGES:
                run_stage(run, stage)
            run.dir.update_table()

        view = run.dir.read_view()
        views.append(replace(view, name=base))
    return views


def read_folders(folders: Sequence[Path]) -> list[RunView]:
    """Return finished runs under their folders' names."""
    # A wrong name is told before anything is read, which takes longer.
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--folders {folder}: no such folder; name a run, such as runs/nano")
        if not RunDir(folder).read_stage_scores():
            raise UserError(f"--folders {folder}: no stage has scores there; name a run, such as runs/nano")

    views = []
    for folder in folders:
        view = RunDir(folder).read_view()
        # Not by its base: two runs of one base may be compared.
        views.append(replace(view, name=str(folder)))
    return views
