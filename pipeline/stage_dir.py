"""The folder of one stage: its parts, what each was made from, and whether that still holds.

A part ("training", "scoring", of a study "study") counts only once the manifest has it. The manifest is written last
and by a rename, so a part that it has is complete, whenever a process was killed.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import UserError, read_json, read_jsonl, sha256_file, sha256_json, write_json
from data.problem import Grade, Problem, write_records
from eval.grade import grade_all
from eval.run_view import TrainingLog
from eval.score import score_completions
from pipeline.provenance import describe_machine

if TYPE_CHECKING:
    from pipeline.evaluate import Evaluation

Record = dict[str, Any]

MANIFEST = "manifest.json"
LOG = "log.txt"
INPUTS = "inputs.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # as PEFT calls them
WORK_FOLDERS = {"training": "work", "scoring": "partial", "study": "work"}

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
            # Its checkpoints would go on with other settings, so what cannot be removed is an error.
            if work.exists():
                shutil.rmtree(work)
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

    def check_adapter(self, base: str) -> None:
        """Raise UserError where there is no adapter, or not the one that was trained, or not on this base.

        Args:
            base: The fingerprint of the base that it is to be put on.
        """
        part = self.read_part("training")
        if not part:
            raise UserError(f"{self.folder}: has no adapter yet; run `make {self.name}`")
        # Two bases may have one name, such as a folder that was written anew.
        if part["inputs"]["base"] != base:
            raise UserError(
                f"{self.folder}: was trained on another base of this name; name that one, or run `make {self.name}`"
            )
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
