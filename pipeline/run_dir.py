"""The only reader and writer of runs/BASE: where things are, what they were made from, and whether that still holds.

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

A part of a stage ("training", "scoring") or a study ("study") counts only once the manifest has it. The manifest is
written last and by a rename, so a part that it has is complete, whenever a process was killed.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.datasets import Dataset
from data.files import (
    UserError,
    make_folder,
    read_json,
    read_jsonl,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from data.problem import Grade, Problem, read_completions, read_grades, read_problems, write_records
from eval import seeds, studies
from eval.grade import grade_all
from eval.report.plots import save_study_plot
from eval.run_view import RowKey, RunView, StageView, TrainingLog
from eval.score import score_completions
from eval.table import StageScores, make_rows, to_markdown
from pipeline import processes
from pipeline.provenance import describe_machine

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation

Record = dict[str, Any]

MANIFEST = "manifest.json"
LOG = "log.txt"
INPUTS = "inputs.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # as PEFT calls them
WORK_FOLDERS = {"training": "work", "scoring": "partial", "study": "work"}
# The seed whose files lie in runs/BASE itself.
FIRST_SEED = 1

# Longer values are not repeated in a message.
SHOWN_CHARACTERS = 20

# What a training leaves in its work folder and is kept beside the adapter.
KEPT_SUFFIXES = (".json", ".jsonl", ".txt")


def seal(
    folder: Path,
    files: Iterable[Path],
    about: Record | None = None,
    part: str = "files",
) -> None:
    """Write a part of a folder's manifest: the sha256 of its files, and what else is to be known ``about`` it."""
    hashes = {}
    for path in sorted(files):
        name = str(path.relative_to(folder))
        hashes[name] = sha256_file(path)

    # The other parts stay as they are.
    parts = read_manifest(folder)
    parts[part] = {"files": hashes, **(about or {})}
    write_json(folder / MANIFEST, {"sha256": sha256_json(parts), "parts": parts})


def write_answers(
    folder: Path,
    file: Path,
    problems: Sequence[Problem],
    evaluation: Evaluation,
) -> tuple[Record, list[Grade]]:
    """Grade an evaluation's completions, and write both into ``file`` below completions/ and grades/ of a folder.

    Returns:
        What scores.json says of them, and the grades.
    """
    completions = evaluation.completions
    grades = grade_all(problems, completions)
    completions_file = Path("completions") / file
    grades_file = Path("grades") / file
    write_records(folder / completions_file, completions)
    write_records(folder / grades_file, grades)

    entry = {"completions": str(completions_file), "grades": str(grades_file)}
    return entry | score_completions(problems, completions, grades, evaluation.seconds), grades


def read_manifest(folder: Path) -> Record:
    """Return the parts of a folder's manifest; none where it has no manifest.

    Raises:
        UserError: where the manifest is not what was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}

    try:
        manifest = json.loads(path.read_bytes())
        # With a flipped bit it is often valid JSON still.
        is_intact = manifest["sha256"] == sha256_json(manifest["parts"])
    except (ValueError, TypeError, KeyError):
        is_intact = False

    if not is_intact:
        raise UserError(f"{path}: is not what was written; delete {folder} and run the stage again")
    return manifest["parts"]


def find_damaged(folder: Path, part: str = "files") -> list[Path]:
    """Return the files of a sealed part that are not what was sealed; the manifest where that is damaged or missing."""
    try:
        hashes = read_manifest(folder)[part]["files"]
    except (UserError, KeyError):
        return [folder / MANIFEST]

    damaged = []
    for name, sha256 in hashes.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != sha256:
            damaged.append(path)
    return damaged


def find_differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return what changed between two inputs, by name, from what to what; long values are only named."""
    if old == new:
        return []

    if isinstance(old, dict) and isinstance(new, dict):
        differences = []
        for key in dict.fromkeys([*old, *new]):
            inner = f"{name}.{key}" if name else key
            differences += find_differences(old.get(key), new.get(key), inner)
        return differences

    # A hash or a list of problems says nothing to a reader.
    if max(len(str(old)), len(str(new))) > SHOWN_CHARACTERS:
        return [f"{name} changed"]
    return [f"{name} was {old}, is {new}"]


@dataclass(frozen=True)
class StageDir:
    """The folder of one stage."""

    folder: Path

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.folder.name

    @property
    def adapter(self) -> Path:
        """Where its adapter is, once it is trained."""
        return self.folder / "adapter"

    def read_part(self, part: str) -> Record:
        """Return what the manifest has of a part: "files", "inputs" and what it is about; empty where unfinished."""
        return read_manifest(self.folder).get(part, {})

    def find_changes(self, part: str, inputs: Record) -> list[str]:
        """Return why a part is not what these inputs would make; empty where it is, or is only damaged."""
        finished = self.read_part(part)
        if not finished:
            return [f"no {part} yet"]
        return find_differences(finished["inputs"], _as_json(inputs))

    def find_damaged(self, part: str) -> list[Path]:
        """Return the files of a finished part that must be made again; what lies beside an adapter may be missing."""
        damaged = find_damaged(self.folder, part)
        if part != "training":
            return damaged

        # A curve is no reason to train again: it may be deleted.
        return [path for path in damaged if path.parent == self.adapter]

    def find_damaged_notes(self) -> list[Path]:
        """Return the files beside the adapter that are there and not what was written."""
        if not self.read_part("training"):
            return []

        damaged = find_damaged(self.folder, "training")
        return [path for path in damaged if path.parent == self.folder and path.is_file()]

    def begin(self, part: str, inputs: Record) -> Path:
        """Return the folder to make a part in: what was begun from the same inputs goes on, all else is removed."""
        work = self.folder / WORK_FOLDERS[part]
        if not _was_begun_from(work, inputs):
            # Its checkpoints would go on with other settings.
            shutil.rmtree(work, ignore_errors=True)
            write_json(work / INPUTS, inputs)
        return work

    def remove_leftovers(self, part: str, inputs: Record) -> None:
        """Remove the folder that a part was made in, where a kill came after the part was finished."""
        work = self.folder / WORK_FOLDERS[part]
        if _was_begun_from(work, inputs):
            shutil.rmtree(work)

    def finish(self, part: str, inputs: Record, files: Iterable[Path], about: Record) -> None:
        """Seal a part that is complete, and remove the folder that it was made in."""
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        known = {"inputs": _as_json(inputs), "finished": finished, **about, **describe_machine()}
        seal(self.folder, files, known, part)
        shutil.rmtree(self.folder / WORK_FOLDERS[part], ignore_errors=True)

    def keep_training(self, adapter: Path, inputs: Record, about: Record) -> None:
        """Take over what a training made: its adapter, and the files that lie in its work folder."""
        work = self.folder / WORK_FOLDERS["training"]
        # From here on nothing of an earlier training counts.
        self.forget()
        _copy_folder(adapter, self.adapter)

        files = [path for path in self.adapter.iterdir() if path.is_file()]
        for path in sorted(work.iterdir()):
            # The inputs go into the manifest.
            if path.suffix in KEPT_SUFFIXES and path.name != INPUTS:
                files.append(Path(shutil.copy(path, self.folder)))

        # The table shows it beside the stage's rows.
        alarm = self.folder / "alarm.txt"
        if alarm.is_file():
            about = {**about, "alarm": alarm.read_text().strip()}
        self.finish("training", inputs, files, about)

    def forget(self) -> None:
        """Make all that is finished count no more, before something else takes its place."""
        (self.folder / MANIFEST).unlink(missing_ok=True)

        # The log goes on through all trainings.
        for path in self.folder.glob("*"):
            if path.suffix in KEPT_SUFFIXES and path.name != LOG:
                path.unlink()

    def adapter_sha256(self) -> str | None:
        """Return the sha256 of the adapter's weights; None where there are none."""
        weights = self.adapter / ADAPTER_WEIGHTS
        return sha256_file(weights) if weights.is_file() else None

    def check_adapter(self) -> None:
        """Raise UserError where there is no adapter, or where it is not the one that was trained."""
        if not self.read_part("training"):
            raise UserError(f"{self.folder}: has no adapter yet; run `make {self.name}`")
        for path in self.find_damaged("training"):
            raise UserError(f"{path}: is not what was trained; run `make {self.name}` to train it again")

    def read_scores(self) -> Record:
        """Return scores.json, after a check that it and all that it names are what was written."""
        for path in self.find_damaged("scoring"):
            raise UserError(f"{path}: is not what was written; run the stage {self.name} again to answer anew")
        return read_json(self.folder / "scores.json")

    def read_trainings(self) -> list[TrainingLog]:
        """Return the logs of the stage's trainings that have any points on dev."""
        trainings = []
        # GRPO leaves files of its own where it follows on expert iteration.
        for name, prefix in (("", ""), ("grpo", "grpo_")):
            curve = self.read_log(f"{prefix}curve.json")
            steps = self.read_log(f"{prefix}train.jsonl")
            if curve:
                trainings.append(TrainingLog(name, curve, steps))
        return trainings

    def read_log(self, name: str) -> list[Record]:
        """Return the records of a JSON or JSONL file; none where there is no such file, or nothing in it."""
        path = self.folder / name
        # A training of a few steps may have logged none.
        if not path.is_file() or not path.stat().st_size:
            return []
        if path.suffix == ".json":
            return read_json(path)
        return [row for _, row in read_jsonl(path)]


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
        questions = [(problem.id, problem.question) for problem in problems]
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

    def write_table(self, rows: list[Record]) -> None:
        """Write table.json and table.md."""
        write_json(self.root / "table.json", rows)
        write_text(self.root / "table.md", to_markdown(rows))

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
        """Whether a stage was scored, and all adapters that it was trained on are still there."""
        stage = self.stage(name)
        scored_files = stage.read_part("scoring").get("files", {})
        if "scores.json" not in scored_files:
            return False

        training = stage.read_part("training")
        parent = training["inputs"]["parent"] if training else None
        if parent is None:
            return True

        # Another adapter in its place would make a comparison with it meaningless.
        is_same = self.stage(parent).adapter_sha256() == training["inputs"]["parent_adapter"]
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
            raise UserError(f"{path}: is not what was written; delete it to go without")

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


def _as_json(value: Any) -> Any:
    """What a value is after it was written and read again."""
    return json.loads(json.dumps(value))


def _was_begun_from(work: Path, inputs: Record) -> bool:
    try:
        return json.loads((work / INPUTS).read_bytes()) == _as_json(inputs)
    except (FileNotFoundError, ValueError):
        return False


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder in place of another, which is never seen half written."""
    aside = target.with_name(f"{target.name}.new")
    # A kill may have left it.
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)

    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


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
