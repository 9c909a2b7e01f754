"""The folder of a run: where things are, and how they are read. pipeline/stage_dir.py has the folder of a stage.

A run with another seed than 1 lies in runs/BASE/seed-N, with the same files:

    .lock                      held by the process that works here
    problems/BENCHMARK.jsonl   the problems that were asked
    table.json, table.md       the rows of all stages
    pass_at_k.json             with SAMPLES=: what samples of the trained stages come to
    seeds.json, seeds.md       the rows of all seeds together, in runs/BASE alone
    STAGE/manifest.json        what each finished part was made from, and the sha256 of its files
    STAGE/adapter/             of a trained stage, with curve.json, train.jsonl and the like beside it
    samples/                   what adapters wrote, to be learnt from and for pass@k
    STAGE/scores.json          with recipe.yaml, completions/ and grades/
    STAGE/work/, partial/      an unfinished training, unfinished answers
    studies/NAME/result.json   with plot.png and summary.md
    traces/, tradeoff/         what `make traces` and `make tradeoff` leave
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.datasets import Dataset
from data.files import (
    UserError,
    make_folder,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from data.problem import Problem, read_completions, read_grades, read_problems, write_records
from eval import seeds, studies
from eval.report.plots import save_study_plot
from eval.run_view import RowKey, RunView, StageView
from eval.table import StageScores, make_rows, to_markdown
from pipeline import processes
from pipeline.prompts import format_question
from pipeline.stage_dir import ADAPTER_WEIGHTS, MANIFEST, StageDir, read_manifest

Record = dict[str, Any]

# The seed whose files lie in runs/BASE itself.
FIRST_SEED = 1


@dataclass(frozen=True)
class RunDir:
    """The folder of one run: runs/BASE, or runs/BASE/seed-N."""

    root: Path

    @property
    def name(self) -> str:
        """BASE, or BASE/seed-N."""
        has_seed = self.root.name.startswith("seed-")
        return f"{self.root.parent.name}/{self.root.name}" if has_seed else self.root.name

    def stage(self, name: str) -> StageDir:
        """Return the folder of a stage."""
        return StageDir(self.root / name)

    def study(self, name: str) -> StageDir:
        """Return the folder of a study."""
        return StageDir(self.root / "studies" / name)

    def find_samples(self, adapter: Path, problems: Iterable[Problem], *depends_on: object) -> Path:
        """Return the place for what an adapter writes on problems; its name stands for both and for all else.

        So a control, or a training with other settings, does not ask again what was answered already.
        """
        weights = processes.on_main_process(lambda: sha256_file(adapter / ADAPTER_WEIGHTS))
        questions = [(problem.id, format_question(problem)) for problem in problems]
        return self.root / "samples" / sha256_json([weights, *depends_on, questions])[:16]

    def write_study(self, result: Record, inputs: Record, about: Record) -> None:
        """Write a study's result.json, plot.png and summary.md, and seal them."""
        study = self.study(result["study"])
        make_folder(study.folder)
        study.forget()

        names = ("result.json", "plot.png", "summary.md")
        files = [study.folder / name for name in names]
        write_json(files[0], result)
        save_study_plot(result, files[1])
        write_text(files[2], studies.to_markdown(result))
        study.finish("study", inputs, files, about)

    def read_study(self, name: str) -> Record:
        """Return the result of a study, after a check of its files."""
        study = self.study(name)
        for path in study.find_damaged("study"):
            raise UserError(f"{path}: is not what was written; run `make study NAME={name}` again")
        return read_json(study.folder / "result.json")

    def read_studies(self) -> list[Record]:
        """Return the results of all studies that were made here, by name."""
        manifests = sorted(self.root.glob(f"studies/*/{MANIFEST}"))
        return [self.read_study(manifest.parent.name) for manifest in manifests]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep all other processes out; the lock ends with the process that has it, however that ends."""
        with contextlib.ExitStack() as stack:
            processes.on_main_process(lambda: stack.enter_context(_lock_folder(self.root)))
            yield

    def problems_file(self, benchmark: str) -> Path:
        """Return where the problems of a benchmark are."""
        return self.root / "problems" / f"{benchmark}.jsonl"

    def write_problems(self, benchmarks: Iterable[Dataset]) -> None:
        """Write the problems of benchmarks, which the report shows."""
        for benchmark in benchmarks:
            write_records(self.problems_file(benchmark.name), benchmark.problems)

    def update_table(self, controls: bool = False) -> list[Record]:
        """Write table.json and table.md of what has been run, and return the rows."""
        rows = make_rows(self.read_stage_scores(controls))
        write_json(self.root / "table.json", rows)
        write_text(self.root / "table.md", to_markdown(rows))
        return rows

    def write_pass_at_k(self, content: Record) -> None:
        """Write pass_at_k.json."""
        write_json(self.root / "pass_at_k.json", content)

    def write_seeds(self, rows: list[Record]) -> str:
        """Write seeds.json and seeds.md; returns the latter's text."""
        text = seeds.to_markdown(rows)
        write_json(self.root / "seeds.json", rows)
        write_text(self.root / "seeds.md", text)
        return text

    def read_stage_scores(self, controls: bool = False) -> list[StageScores]:
        """Return the scores and grades of the stages that have a row, in order; controls come last."""
        stages = []
        for manifest in self.root.glob(f"*/{MANIFEST}"):
            name = manifest.parent.name
            if not self._has_row(name):
                continue

            scores = self.stage(name).read_scores()
            # A copy of a stage's folder is none of the run.
            if scores["stage"] != name:
                continue
            if controls or not scores["control"]:
                grades = self._read_rows(name, scores, "grades", read_grades)
                profile = self.stage(name).read_part("scoring").get("profile", "")
                stages.append(StageScores(name, scores, grades, profile))

        places = ("control", "number", "stage")
        return sorted(stages, key=lambda stage: [stage.scores[key] for key in places])

    def read_view(self) -> RunView:
        """Return all that the report shows, controls too; every file is checked."""
        scored = self.read_stage_scores(controls=True)
        rows = make_rows(scored)
        stages = [self._read_stage_view(stage) for stage in scored]

        # A benchmark's problems are the same for every stage that was asked them.
        problems = {}
        for stage in scored:
            for variant in stage.scores["variants"]:
                for entry in variant["benchmarks"]:
                    problems[entry["benchmark"]] = self._read_problems(entry, stage.name)
        return RunView(self.name, rows, stages, problems, self.read_studies())

    def _has_row(self, name: str) -> bool:
        """Whether a stage was scored, and all that it was trained on, or imitates, is still there."""
        stage = self.stage(name)
        scored_files = stage.read_part("scoring").get("files", {})
        if "scores.json" not in scored_files:
            return False

        inputs = stage.read_part("training").get("inputs", {})
        # A control says something only beside the stage that it imitates.
        imitates = inputs.get("imitates")
        if imitates:
            real = self.stage(imitates["stage"]).read_part("training").get("inputs", {})
            if sha256_json(real) != imitates["inputs"]:
                return False

        parent = inputs.get("parent")
        if parent is None:
            return True

        # Another adapter in its place would make a comparison with it meaningless.
        is_same = self.stage(parent).adapter_sha256() == inputs["parent_adapter"]
        return is_same and self._has_row(parent)

    def _read_rows(self, name: str, scores: Record, key: str, read) -> dict[RowKey, Any]:
        """The file of each row that ``key`` names: its grades or its completions."""
        records = {}
        for variant in scores["variants"]:
            for entry in variant["benchmarks"]:
                path = self.stage(name).folder / entry[key]
                records[variant["variant"], entry["benchmark"]] = read(path)
        return records

    def _read_stage_view(self, stage: StageScores) -> StageView:
        folder = self.stage(stage.name)
        for path in folder.find_damaged_notes():
            raise UserError(f"{path}: is not what was written; move it away to go without")

        return StageView(
            name=stage.name,
            scores=stage.scores,
            completions=self._read_rows(stage.name, stage.scores, "completions", read_completions),
            grades=stage.grades,
            trainings=folder.read_trainings(),
            manifest=read_manifest(folder.folder),
            recipe=(folder.folder / "recipe.yaml").read_text(encoding="utf-8"),
        )

    def _read_problems(self, entry: Record, stage: str) -> list[Problem]:
        path = self.problems_file(entry["benchmark"])
        # A run with another limit may have written it since.
        if not path.is_file() or sha256_file(path) != entry["problems_sha256"]:
            raise UserError(f"{path}: is not what {stage} was asked; run `make {stage}` to write it again")
        return read_problems(path)


def find_run_dir(runs: Path, base_folder: str, seed: int) -> RunDir:
    """Return the folder of a base's run with a seed."""
    root = runs / base_folder
    return RunDir(root if seed == FIRST_SEED else root / f"seed-{seed}")


def find_seed_runs(runs: Path, base_folder: str) -> list[RunDir]:
    """Return the runs of a base that have scores, one for each seed, in the order of the seeds."""
    seeds_found = {FIRST_SEED}
    for path in (runs / base_folder).glob("seed-*"):
        number = path.name.removeprefix("seed-")
        # A user may have put a folder of his own there.
        if number.isdecimal():
            seeds_found.add(int(number))

    run_dirs = [find_run_dir(runs, base_folder, seed) for seed in sorted(seeds_found)]
    return [run_dir for run_dir in run_dirs if run_dir.read_stage_scores()]


@contextlib.contextmanager
def _lock_folder(root: Path) -> Iterator[None]:
    make_folder(root)
    with open(root / ".lock", "w", encoding="utf-8") as file:
        # The system lets go of it when the process ends, even by a kill.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{root}: another run is at work in it; wait for its end, or name another RUNS=") from None
        yield
