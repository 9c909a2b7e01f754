"""A run that is killed, whose disk fills up or whose files rot ends as an unbroken one, and no table is ever wrong.

``make faults`` (FAULTS=20) kills each stage 20 times and prints what happened. Without FAULTS only sft is killed, once,
and the longest of the other tests are left out.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.files import UserError
from pipeline.run_dir import RunDir
from pipeline.stage_dir import find_damaged

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("FAULTS", "1"))
BASE = "nano-tiny"
TRAINED = ("sft", "rl", "adaptive")
STAGES = ("plain", "cot", *TRAINED)

# By default one stage, so that this file takes minutes: most of it is the start of a command.
IS_FULL = "FAULTS" in os.environ
KILLED = STAGES if IS_FULL else ("sft",)
only_in_full = pytest.mark.skipif(not IS_FULL, reason="trains two stages again; set FAULTS=N")

SETTINGS = [
    "plain.shots=[0]",
    "cot.shots=[0]",
    "sft.trainer.save_steps=4",
    "sft.trainer.eval_steps=4",
    "rl.expert_iteration.samples=2",
    "rl.expert_iteration.trainer.save_steps=2",
]


# Running


def build_command(runs: Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pipeline", *arguments, "--runs", str(runs)]
    command += ["--base", BASE, "--profile", "cpu", "--limit", "10"]
    for setting in SETTINGS:
        command += ["--set", setting]
    return command


def call(runs: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(build_command(runs, *arguments), cwd=ROOT, capture_output=True, text=True)


def call_well(runs: Path, *arguments: str) -> subprocess.CompletedProcess:
    done = call(runs, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def begin(runs: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        build_command(runs, *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, condition) -> None:
    """Wait until a condition holds, while the process is still at work."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


# What a run came to


def drop_seconds(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def read_results(runs: Path) -> dict[str, object]:
    """All that a run came to, apart from its seconds."""
    root = runs / BASE
    results: dict[str, object] = {}
    for stage in TRAINED:
        results[stage] = RunDir(root).stage(stage).adapter_sha256()

    for path in sorted(root.rglob("*.jsonl")):
        if path.parent.name in ("completions", "grades", "problems"):
            results[str(path.relative_to(root))] = path.read_text()

    results["table"] = drop_seconds(json.loads((root / "table.json").read_text()))
    return results


def list_leftovers(runs: Path) -> list[Path]:
    """What only a run at work has: folders of its own, and files that were written aside."""
    leftovers = []
    for path in runs.rglob("*"):
        is_work = path.name in ("work", "partial")
        is_aside = path.name.endswith(".new") or ".jsonl." in path.name or ".json." in path.name
        if is_work or is_aside:
            leftovers.append(path)
    return leftovers


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing went wrong with."""
    runs = tmp_path_factory.mktemp("unbroken")
    start = time.monotonic()
    call_well(runs, "all")
    seconds = time.monotonic() - start

    # What is left of the time is the start of a command.
    seconds -= sum(measure_work(runs / BASE / stage) for stage in STAGES)
    (runs / "start.json").write_text(json.dumps(seconds))
    return runs


# Kills


def describe_moment(folder: Path) -> str:
    """Where a kill met a stage."""
    if (folder / "scores.json").is_file():
        return "with its scores written"
    if list(folder.glob("partial/*/*/*.jsonl")):
        return "between two answers"
    if list(folder.glob("work/**/checkpoint-*")):
        return "between two checkpoints"
    return "before its first checkpoint or answer"


def measure_work(folder: Path) -> float:
    """The seconds that a stage was at work."""
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    return sum(part["seconds"] for part in parts.values())


@pytest.mark.timeout(7200)
def test_killed_at_random_points_each_stage_ends_as_the_unbroken_one(unbroken, tmp_path):
    start = json.loads((unbroken / "start.json").read_text())
    rng = random.Random(KILLS)
    began = time.monotonic()

    # Stages after sft stay up to date: they start from the same adapter as before.
    for stage in STAGES:
        if stage not in KILLED:
            shutil.copytree(unbroken / BASE / stage, tmp_path / BASE / stage)

    for stage in KILLED:
        folder = tmp_path / BASE / stage
        seconds = measure_work(unbroken / BASE / stage)
        moments: list[str] = []

        while len(moments) < KILLS:
            process = begin(tmp_path, stage)
            time.sleep(start * 0.7 + rng.uniform(0, seconds + start * 0.3))
            if process.poll() is None:
                kill(process)
                moments.append(describe_moment(folder))
            else:
                # It was through before the kill: begin again.
                assert process.returncode == 0, process.stderr.read()
                shutil.rmtree(folder)

        # The last one is finished by "all", below.
        if stage != KILLED[-1]:
            call_well(tmp_path, stage)
        counts = [f"{moments.count(moment)} {moment}" for moment in sorted(set(moments))]
        print(f"\n{stage}: {KILLS} kills of {seconds:.0f} s of work ({', '.join(counts)})", end="", flush=True)

    call_well(tmp_path, "all")
    assert read_results(tmp_path) == read_results(unbroken)
    assert not list_leftovers(tmp_path)
    print(f"\n{KILLS * len(KILLED)} kills; lost: nothing; {time.monotonic() - began:.0f} s")


# A full disk


class Disk:
    """A folder whose room can be taken away: a small file system of its own.

    Where none may be mounted (a container without the right), no file of a process may grow beyond the room instead.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)]
        has_mount = shutil.which("mount") is not None
        self.is_mounted = has_mount and subprocess.run(mount, capture_output=True).returncode == 0

    def leave_room(self, process: subprocess.Popen, kib: int) -> None:
        """Leave a process so many KiB."""
        if not self.is_mounted:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))
            return

        state = os.statvfs(self.folder)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize // 1024
        self._resize(f"{used + kib}k")

    def free(self) -> None:
        """Give all room back."""
        if self.is_mounted:
            self._resize("2g")

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    print(f"\nfull disk: {'a tmpfs' if disk.is_mounted else 'a limit on the size of files'}")
    yield disk
    disk.close()


def fill_up(disk: Disk, at_work, kib: int) -> None:
    """Run sft, take the room away once it is at work, and see it end with one line."""
    process = begin(disk.folder, "sft")
    wait_for(process, at_work)
    disk.leave_room(process, kib)
    said = process.stderr.read()

    assert process.wait() == 2, said
    assert said.splitlines()[-1].endswith("no space left on the disk; free some and rerun")
    assert said.count("error:") == 1
    assert "Traceback" not in said

    disk.free()
    root = disk.folder / BASE
    for manifest in root.glob("*/manifest.json"):
        for part in json.loads(manifest.read_text())["parts"]:
            assert not find_damaged(manifest.parent, part)


@pytest.mark.timeout(1800)
def test_a_disk_that_fills_up_is_one_line_and_with_more_room_the_run_goes_on(unbroken, disk):
    sft = disk.folder / BASE / "sft"
    shutil.copytree(unbroken / BASE, disk.folder / BASE)
    shutil.rmtree(sft)

    # Full while the first checkpoint's adapter is written, then while its optimizer is: each has its own error.
    for kib in (64, 500) if IS_FULL else (64,):
        fill_up(disk, (sft / "work" / "inputs.json").is_file, kib)
        assert not (sft / "adapter").exists()
        assert not (sft / "manifest.json").exists()
        shutil.rmtree(sft / "work")

    # Full when the adapter is there and the answers come.
    fill_up(disk, (sft / "partial" / "inputs.json").is_file, kib=0)
    assert (sft / "adapter").is_dir()
    assert not (sft / "scores.json").exists()

    done = call_well(disk.folder, "all")
    # The stages after sft start from the same adapter as before.
    assert "training" not in done.stderr
    assert read_results(disk.folder) == read_results(unbroken)
    assert not list_leftovers(disk.folder)


# Damaged files


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (flip_bit, cut_short, empty)
IN_TABLE = (
    "plain/scores.json",
    "cot/completions/sums_v1.jsonl",
    "rl/grades/booleans_v1.jsonl",
    "adaptive/manifest.json",
)
IN_REPORT = ("problems/booleans_v1.jsonl", "rl/curve.json", "sft/train.jsonl")
REMADE = (
    "plain/scores.json",
    "cot/completions/sums_v1.jsonl",
    "rl/grades/booleans_v1.jsonl",
    "sft/adapter/adapter_model.safetensors",
    "adaptive/adapter/adapter_config.json",
    "rl/recipe.yaml",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("victim", IN_TABLE + IN_REPORT)
def test_a_damaged_file_is_named_and_in_no_table_or_report(unbroken, tmp_path, victim, damage):
    root = tmp_path / BASE
    shutil.copytree(unbroken / BASE, root)
    damage(root / victim)

    with pytest.raises(UserError, match=victim) as error:
        RunDir(root).read_view()
    assert "\n" not in str(error.value)

    if victim in IN_TABLE:
        with pytest.raises(UserError, match=victim):
            RunDir(root).read_stage_scores()


@only_in_full
@pytest.mark.timeout(1800)
def test_what_is_damaged_is_made_again(unbroken, tmp_path):
    runs = tmp_path / "runs"
    root = runs / BASE
    shutil.copytree(unbroken, runs)
    for victim in (*REMADE, "problems/booleans_v1.jsonl", "rl/curve.json"):
        flip_bit(root / victim)

    said = call_well(runs, "status").stdout
    for victim in REMADE:
        assert f"{victim} is not what was written" in said

    done = call_well(runs, "all")
    assert done.stderr.count("; training again") == 2
    assert done.stderr.count("; scoring again") == 3
    assert read_results(runs) == read_results(unbroken)
    for name in ("problems/booleans_v1.jsonl", "rl/recipe.yaml"):
        assert (root / name).read_bytes() == (unbroken / BASE / name).read_bytes()

    # A curve comes from a training only, which is not repeated for it.
    with pytest.raises(UserError, match=r"rl/curve\.json: .* delete it to go without"):
        RunDir(root).read_view()
    (root / "rl" / "curve.json").unlink()
    RunDir(root).read_view()


# Damaged checkpoints


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was killed in sft when its second checkpoint was there."""
    runs = tmp_path_factory.mktemp("interrupted")
    process = begin(runs, "sft")
    wait_for(process, (runs / BASE / "sft" / "work" / "checkpoint-8" / "manifest.json").is_file)
    kill(process)
    return runs


def list_intact_checkpoints(work: Path) -> list[Path]:
    """The checkpoints that are as they were written, the last one first."""
    intact = [path for path in work.glob("checkpoint-*") if not find_damaged(path)]
    return sorted(intact, key=lambda path: -int(path.name.rpartition("-")[2]))


def test_any_damaged_file_of_a_checkpoint_is_named_and_the_one_before_taken(interrupted, tmp_path, capsys):
    from pipeline.training import find_last_checkpoint

    original = interrupted / BASE / "sft" / "work"
    last, before = list_intact_checkpoints(original)[:2]
    files = [path.relative_to(original) for path in last.rglob("*") if path.is_file()]
    expected = {"adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "manifest.json"}
    assert expected <= {path.name for path in files}

    for i, victim in enumerate(files):
        work = tmp_path / str(i)
        shutil.copytree(original, work)
        DAMAGES[i % len(DAMAGES)](work / victim)
        if victim.name.startswith("rng_state_"):
            continue

        assert find_last_checkpoint(work) == str(work / before.name)
        assert f"{victim} is not what was written" in capsys.readouterr().err.replace("\n", "")
        assert not (work / last.name).exists()


@pytest.mark.timeout(1800)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_adapter(unbroken, interrupted, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(interrupted, runs)
    work = runs / BASE / "sft" / "work"
    last, before = list_intact_checkpoints(work)[:2]
    flip_bit(last / "optimizer.pt")

    done = call_well(runs, "sft")
    assert "optimizer.pt is not what was written" in done.stderr
    assert f"going on from step {before.name.rpartition('-')[2]}" in done.stderr

    for name in ("adapter/adapter_model.safetensors", "curve.json"):
        made = runs / BASE / "sft" / name
        assert made.read_bytes() == (unbroken / BASE / "sft" / name).read_bytes()
