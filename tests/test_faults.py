"""A run that is killed, whose disk fills up or whose files rot ends as an unbroken one, and no table is ever wrong.

`make faults` kills each stage 20 times and prints what happened; the tests kill each FAULTS times, once where it is not
set.
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

from data.records import BadInput
from eval import report, table
from pipeline.runs import folder_hash

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("FAULTS", "1"))
SMALL = ["sft.arithmetic=160", "sft.logic=80", "sft.epochs=1", "sft.save_steps=5", "plain.shots=[0]", "cot.shots=[0]"]
SMALL += [
    "rl.micro_batch=8",
    "rl.prompts=4",
    "rl.samples=4",
    "rl.probe=0",
    "adaptive.micro_batch=8",
    "adaptive.prompts=8",
]
for stage in ("rl", "adaptive"):
    SMALL += [f"{stage}.{key}" for key in ("steps=2", "eval_every=1", "dev=10", "logic=20", "arithmetic=40")]
TRAINED = ("sft", "rl", "adaptive")
STAGES = ("plain", "cot", *TRAINED)


def command(runs: Path, *more: str) -> list[str]:
    options = ["--base", "nano", "--profile", "cpu", "--limit", "40", *(x for s in SMALL for x in ("--set", s))]
    return [sys.executable, "-m", "pipeline", *more, "--runs", str(runs), *options]


def call(runs: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(runs, *more), cwd=ROOT, capture_output=True, text=True)


def begin(runs: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(runs, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(runs: Path) -> dict[str, object]:
    """What a run came to, without its seconds."""
    found: dict[str, object] = {stage: folder_hash(runs / "nano" / stage / "adapter") for stage in TRAINED}
    for path in sorted((runs / "nano").rglob("*.jsonl")):
        if path.parent.name in ("completions", "grades", "problems"):
            found[str(path.relative_to(runs))] = path.read_text()
    found["table"] = told(json.loads((runs / "nano" / "table.json").read_text()))
    return found


def told(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def left_over(runs: Path) -> list[Path]:
    """What only a run at work has: folders of its own, and files written aside."""
    return [
        p for p in runs.rglob("*") if p.name in ("work", "partial") or p.name.endswith(".new") or ".jsonl." in p.name
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    runs = tmp_path_factory.mktemp("unbroken")
    done = call(runs, "all")
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.timeout(7200)
def test_killed_at_random_points_each_stage_ends_as_the_unbroken_one(unbroken, tmp_path):
    began = time.monotonic()
    call(unbroken, "all")  # nothing to do: what the start alone takes, after which a stage has something to lose
    start = time.monotonic() - began
    rng, began = random.Random(KILLS), time.monotonic()
    for stage in STAGES:
        folder = tmp_path / "nano" / stage
        parts = json.loads((unbroken / "nano" / stage / "manifest.json").read_text())
        seconds = sum(part["seconds"] for part in parts.values())
        kills: list[str] = []
        while len(kills) < KILLS:
            process = begin(tmp_path, stage)
            time.sleep(start * 0.7 + rng.uniform(0, seconds + start * 0.3))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills.append(at_work(folder))
            else:
                assert process.returncode == 0, process.stderr.read()
                shutil.rmtree(folder)  # it was through: begin again
        done = call(tmp_path, stage)
        assert done.returncode == 0, done.stderr
        met = ", ".join(f"{kills.count(what)} {what}" for what in sorted(set(kills)))
        print(f"\n{stage}: {len(kills)} kills of {seconds:.0f} s of work ({met})", end="", flush=True)
    done = call(tmp_path, "all")
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path) == ended(unbroken)
    assert not left_over(tmp_path)
    print(f"\n{KILLS * len(STAGES)} kills; lost: nothing; {time.monotonic() - began:.0f} s")


def at_work(folder: Path) -> str:
    """Where a kill met a stage."""
    if (folder / "scores.json").is_file():
        return "with its scores written"
    if list(folder.glob("partial/*/*.jsonl")):
        return "between two answers"
    if list(folder.glob("work/checkpoint-*")):
        return "between two checkpoints"
    return "before its first checkpoint or answer"


@pytest.fixture
def disk(tmp_path):
    """(a folder, what leaves a process that writes there so many KiB of room, or where None is given all it wants).

    The folder is a small file system of its own, which fills up; where none may be mounted (a container without the
    right), no file of the process may grow beyond that room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0

    def leave(process: subprocess.Popen | None, room: int | None) -> None:
        if mounted:
            state = os.statvfs(folder)
            used = (state.f_blocks - state.f_bfree) * state.f_frsize // 1024
            size = "2g" if room is None else f"{used + room}k"
            subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
        elif process is not None and room is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room * 1024, room * 1024))

    print(f"\nfull disk: {'a tmpfs' if mounted else 'a limit on the size of files'}")
    yield folder, leave
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(1800)
def test_a_disk_that_fills_up_is_one_line_and_with_more_room_the_run_goes_on(unbroken, disk):
    runs, leave = disk
    sft = runs / "nano" / "sft"
    shutil.copytree(unbroken / "nano", runs / "nano")
    shutil.rmtree(sft)

    def fails(at_work, room: int) -> None:
        process = begin(runs, "sft")
        while not at_work():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        leave(process, room)
        said = process.stderr.read()
        assert process.wait() == 2, said
        assert said.splitlines()[-1].endswith("no space left on the disk; free some and rerun")
        assert said.count("error:") == 1 and "Traceback" not in said
        leave(None, None)
        for each in ("plain", "cot", "sft", "rl", "adaptive"):
            assert not [path for part in ("training", "scoring") for path in table.damaged(runs / "nano" / each, part)]

    # Full while a checkpoint's adapter is written, while its optimizer is.
    for room in (300, 1500):
        fails(lambda: (sft / "work" / "inputs.json").is_file(), room)
        assert not (sft / "adapter").exists() and not (sft / "manifest.json").exists()
        shutil.rmtree(sft / "work")
    # Full when the adapter is there and the answers come.
    fails(lambda: (sft / "partial" / "inputs.json").is_file(), 0)
    assert (sft / "adapter").is_dir() and not (sft / "scores.json").exists()
    done = call(runs, "all")
    assert done.returncode == 0, done.stderr
    assert "training" not in done.stderr  # the stages after sft stand on the same adapter
    assert ended(runs) == ended(unbroken)
    assert not left_over(runs)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (flip, cut, empty)
SHOWN = [
    "plain/scores.json",
    "cot/completions/arithmetic_v1.jsonl",
    "rl/grades/logic_v1.jsonl",
    "problems/logic_v1.jsonl",
]
SHOWN += ["rl/curve.json", "sft/train.jsonl"]
USED = ["sft/adapter/adapter_model.safetensors", "adaptive/adapter/adapter_config.json", "rl/recipe.yaml"]


@pytest.mark.parametrize(
    ("victim", "damage"),
    [(victim, damage) for victim in SHOWN for damage in DAMAGES]
    + [("adaptive/manifest.json", cut), ("adaptive/manifest.json", empty)],  # a bit of it: see the next test
)
def test_a_damaged_file_is_named_and_in_no_table_or_page(unbroken, tmp_path, victim, damage):
    run = tmp_path / "nano"
    shutil.copytree(unbroken / "nano", run)
    damage(run / victim)
    with pytest.raises(BadInput) as error:
        report.write({"nano": run}, tmp_path / "page.html")
    assert victim in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "page.html").exists()
    if victim.endswith(("scores.json", "manifest.json")) or "completions" in victim or "grades" in victim:
        with pytest.raises(BadInput, match=victim):
            table.write(run)


def test_a_bit_of_a_manifest_makes_no_other_table(unbroken, tmp_path):
    """The row is as it was, or left out (it seems to stand on another rl), or the file that seems altered is named."""
    run = tmp_path / "nano"
    shutil.copytree(unbroken / "nano", run)

    def plain_rows():
        return [{k: v for k, v in row.items() if k not in ("p_vs_previous", "p_holm")} for row in table.rows(run)]

    before, path, rng = plain_rows(), run / "adaptive" / "manifest.json", random.Random(0)
    content, seen = path.read_bytes(), set()
    for _ in range(100):
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            found = plain_rows()
        except BadInput as error:
            assert "adaptive/" in str(error) or "plain and adaptive were scored with another" in str(error)
            seen.add("named")
        else:
            assert found in (before, [row for row in before if row["stage"] != "adaptive"])
            seen.add("left out" if len(found) < len(before) else "as it was")
    assert seen == {"named", "left out", "as it was"}


@pytest.mark.timeout(1800)
def test_what_is_damaged_is_made_again(unbroken, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(unbroken, runs)
    victims = [*SHOWN[:-1], *USED]
    for victim in victims:
        flip(runs / "nano" / victim)
    said = call(runs, "status")
    assert said.returncode == 0, said.stderr
    for victim in victims:
        if not victim.startswith("problems"):  # which is written again whenever a stage is looked at
            assert f"{victim} is not what " in said.stdout
    done = call(runs, "all")
    assert done.returncode == 0, done.stderr
    assert "rl/curve.json is not what was written; delete it to go without" in done.stdout.replace("\n", "")
    assert done.stderr.count("training it again") == 2 and done.stderr.count("answering again") == 3
    assert ended(runs) == ended(unbroken)
    for name in ("problems/logic_v1.jsonl", "rl/recipe.yaml"):
        assert (runs / "nano" / name).read_bytes() == (unbroken / "nano" / name).read_bytes()
    with pytest.raises(BadInput, match=r"rl/curve\.json: .* delete it to go without"):  # all else is whole again
        report.write({"nano": runs / "nano"}, tmp_path / "page.html")
    (runs / "nano" / "rl" / "curve.json").unlink()
    report.write({"nano": runs / "nano"}, tmp_path / "page.html")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run killed in sft when its second checkpoint was there."""
    runs = tmp_path_factory.mktemp("interrupted")
    process = begin(runs, "sft")
    while not (runs / "nano" / "sft" / "work" / "checkpoint-10" / "sealed.json").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return runs


def test_any_damaged_file_of_a_checkpoint_is_named_and_the_one_before_taken(interrupted, tmp_path, capsys):
    from pipeline.callbacks import broken, last_checkpoint

    whole = interrupted / "nano" / "sft" / "work"
    taken = [path.name for path in whole.glob("checkpoint-*") if broken(path) == []]
    newest, before = sorted(taken, key=lambda name: -int(name.split("-")[1]))[:2]
    files = [path.relative_to(whole) for path in (whole / newest).rglob("*") if path.is_file()]
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "curve.json"} <= {
        path.name for path in files
    }
    for i, victim in enumerate(files):
        work = tmp_path / str(i)
        shutil.copytree(whole, work)
        DAMAGES[i % 3](work / victim)
        assert last_checkpoint(work) == str(work / before)
        if victim.name != "sealed.json":
            assert f"{victim} is not what was written" in capsys.readouterr().err.replace("\n", "")
        assert not (work / newest).exists()


@pytest.mark.timeout(1800)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_adapter(unbroken, interrupted, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(interrupted, runs)
    work = runs / "nano" / "sft" / "work"
    for path in work.glob("checkpoint-1?"):
        flip(path / "optimizer.pt")
    (work / "curve.json").write_text("[{")  # those beside the checkpoint are put back
    done = call(runs, "sft")
    assert done.returncode == 0, done.stderr
    assert "optimizer.pt is not what was written" in done.stderr and "going on from step 5" in done.stderr
    for name in ("adapter/adapter_model.safetensors", "curve.json"):
        assert (runs / "nano" / "sft" / name).read_bytes() == (unbroken / "nano" / "sft" / name).read_bytes()


def test_what_was_found_before_a_training_is_kept_only_as_it_was_written(tmp_path):
    from pipeline.callbacks import last_checkpoint, seal

    for name in ("preflight.json", "reference.json", "curve.json", "inputs.json"):
        (tmp_path / name).write_text("{}")
    seal(tmp_path, [tmp_path / "preflight.json", tmp_path / "reference.json"])
    (tmp_path / "reference.json").write_text("[]")
    assert last_checkpoint(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.json", "preflight.json", "sealed.json"]
