"""Run folders: what a stage was made from, and whether that still holds.

``runs/BASE/STAGE/manifest.json`` has two parts, ``training`` and ``scoring``, each with the inputs it was made from and
their hashes. A part is up to date where its inputs are what they would be now; it is written last, so that a part that
is there is whole.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import overlap
from data.build import load
from data.records import BadInput, Problem, make_folder, sha256_of, write_json
from data.sets import Benchmark
from data.splits import BENCHMARKS, take
from eval.grade import read_benchmark
from eval.table import damaged, manifest
from pipeline import base, processes
from pipeline.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """One base under one recipe: ``folder`` holds the base's weights, ``root`` is runs/BASE; see :func:`overlaps`.
    ``held`` are all problems of benchmarks that are not ours, those beyond the limit too."""

    base: str
    folder: Path
    fingerprint: str
    root: Path
    profile: str
    recipe: Recipe
    benchmarks: list[Benchmark]
    overlaps: dict[str, list[tuple[str, str, str]]]
    held: list[Problem]

    def stage(self, stage: str) -> Path:
        return self.root / stage

    def load(self, adapter: Path | None = None, trainable: bool = False) -> tuple[Any, Any]:
        """(model, tokenizer), with the adapter of a stage on the base where given."""
        if adapter:
            check_adapter(adapter)
        return base.load(self.folder, adapter, trainable, self.recipe.base.load)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold runs/BASE for this run; BadInput where another one does. However its process ends, its hold ends."""
    with contextlib.ExitStack() as held:
        processes.by_main(lambda: held.enter_context(_hold(root)))
        yield


@contextlib.contextmanager
def _hold(root: Path) -> Iterator[None]:
    make_folder(root)
    with open(root / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{root}: another run is at work in it; wait for its end, or name another RUNS=") from None
        yield


def benchmarks(specs: list[str], limit: int) -> tuple[list[Benchmark], list[Problem]]:
    """The benchmarks to be scored, our own where none is named, ``limit`` problems of each, stratified; and all
    problems of those that are not ours."""
    if limit < 1:
        raise BadInput(f"LIMIT (--limit) is {limit}; it must be 1 or more problems a benchmark")
    chosen = [read_benchmark(spec) for spec in specs or BENCHMARKS]
    names = [b.name for b in chosen]
    if len(set(names)) != len(names):
        raise BadInput(f"two benchmarks have the same name ({', '.join(names)}); rename a file")
    return [dataclasses.replace(b, problems=take(b.problems, limit)) for b in chosen], [
        p for b in chosen if b.name not in BENCHMARKS for p in b.problems
    ]


def overlaps(
    benchmarks: list[Benchmark], allowed: bool, train: Sequence[Problem], traces: Sequence[Problem] = ()
) -> dict[str, list[tuple[str, str, str]]]:
    """For each benchmark the (train id, its own id, why) of problems that train problems, or a file of traces, give
    away. Raises BadInput where there are any and ``allowed`` is False, or where traces give away dev problems."""
    dev = [problem for name in BENCHMARKS for problem in load(name, "dev")]
    for trace, problem, why in overlap.overlaps(traces, dev):
        raise BadInput(
            f"sft.traces: {trace.id} has {why} as {problem.id}, a dev problem, and dev is what adapters are chosen on; "
            "`make traces SOURCE=FILE` leaves such traces out"
        )
    learnt = [*train, *traces]
    found = {b.name: [(a.id, p.id, why) for a, p, why in overlap.overlaps(learnt, b.problems)] for b in benchmarks}
    for name, pairs in found.items():
        if pairs and not allowed:
            named = "; ".join(f"{mine} has {why} as {theirs}" for theirs, mine, why in pairs[:3])
            raise BadInput(
                f"{name}: {len(pairs)} of its problems are given away by the train split: {named}; take them out, or "
                "pass --allow-overlap, which the table then says"
            )
    return found


def up_to_date(stage_dir: Path, part: str, inputs: dict[str, Any]) -> bool:
    """Whether a part was made from just these inputs."""
    return manifest(stage_dir).get(part, {}).get("inputs") == json.loads(json.dumps(inputs))


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What changed between two inputs, by name, from what to what; long values are only named."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    if old == new:
        return []
    short = all(len(str(value)) <= 20 for value in (old, new))
    return [f"{name} was {old}, is {new}" if short else f"{name} changed"]


def record(stage_dir: Path, part: str, inputs: dict[str, Any], seconds: float, **more: object) -> None:
    """Write a part of the manifest, with what it was made on. A new adapter makes older scores void."""
    kept = {} if part == "training" else manifest(stage_dir)
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"inputs": inputs, "finished": finished, "seconds": round(seconds, 1), **more, **surroundings()}
    write_json(stage_dir / "manifest.json", kept | {part: about})


def surroundings() -> dict[str, Any]:
    """Versions, commit and hardware."""
    import torch

    return {
        "versions": {"python": platform.python_version()} | base.versions(),
        "commit": commit(),
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        },
    }


def processor() -> str:
    """The processor's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """The project's git commit, with "+" where tracked files differ from it; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return None
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def folder_hash(folder: Path) -> str | None:
    """The sha256 of an adapter's weights; None where there are none."""
    weights = folder / "adapter_model.safetensors"
    return sha256_of(weights) if weights.is_file() else None


def hashes(stage_dir: Path, files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of files by their path in the stage's folder; of those that are there."""
    return {str(path.relative_to(stage_dir)): sha256_of(path) for path in sorted(files) if path.is_file()}


def check_adapter(adapter: Path) -> None:
    """BadInput where a stage's adapter is not the one that was trained."""
    if lost := [path for path in damaged(adapter.parent, "training") if path.parent == adapter]:
        stage = adapter.parent.name
        raise BadInput(f"{lost[0]}: not what was trained; run `make {stage}` to train it again")


def work_folder(stage_dir: Path, inputs: dict[str, Any], name: str = "work") -> Path:
    """Where a training keeps its checkpoints, and scoring its answers so far: kept where it was begun from the same
    inputs, else begun anew."""
    work = stage_dir / name
    if not _begun_from(work, inputs):
        shutil.rmtree(work, ignore_errors=True)
        write_json(work / "inputs.json", inputs)
    return work


def clear(work: Path, inputs: dict[str, Any]) -> None:
    """Remove what is left of a work folder whose outcome from these inputs is there already."""
    if _begun_from(work, inputs):
        shutil.rmtree(work)


def _begun_from(work: Path, inputs: dict[str, Any]) -> bool:
    try:
        return json.loads((work / "inputs.json").read_text(encoding="utf-8")) == json.loads(json.dumps(inputs))
    except (FileNotFoundError, ValueError):
        return False


def settings(value: object) -> dict[str, Any]:
    """A recipe section as JSON-ready keys and values."""
    return dataclasses.asdict(value)  # type: ignore[call-overload]
