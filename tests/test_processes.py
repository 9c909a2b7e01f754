"""Two processes on the CPU (gloo) train and score together, and come to what one comes to."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from data.records import BadInput, Problem
from pipeline import answers

PROBLEM = Problem("p", "What is 1 + 1?", "2", "number")
ROOT = Path(__file__).resolve().parent.parent
# 129 traces: the last batch of sft is not full.
SMALL = ["sft.arithmetic=110", "sft.logic=46", "sft.epochs=2", "plain.shots=[0]", "cot.shots=[4]"]
SMALL += ["rl.micro_batch=4", "rl.prompts=4", "rl.samples=4", "rl.probe=2", "rl.probe_problems=3", "rl.max_tokens=60"]
SMALL += ["rl.reward=random"]  # whether so small an sft solves any of its problems is chance; groups must be mixed
SMALL += ["adaptive.micro_batch=4", "adaptive.prompts=8", "adaptive.max_tokens=60", "eval.max_tokens=60"]
for stage in ("rl", "adaptive"):
    SMALL += [f"{stage}.{key}" for key in ("steps=2", "eval_every=1", "dev=8", "logic=16", "arithmetic=16")]


def ladder(processes: int, runs: Path, *more: str) -> subprocess.CompletedProcess:
    options = ["--base", "nano", "--profile", "cpu", "--limit", "15", *(x for s in SMALL for x in ("--set", s))]
    return launched(processes, ["-m", "pipeline", *more, "--runs", str(runs), *options])


def launched(processes: int, command: list[str]) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def table(runs: Path) -> list[dict]:
    rows = json.loads((runs / "nano" / "table.json").read_text())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def steps(runs: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (runs / "nano" / stage / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    found = {}
    for processes in (1, 2):
        found[processes] = tmp_path_factory.mktemp(f"of_{processes}")
        done = ladder(processes, found[processes], "all")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| arithmetic") + done.stdout.count("Results are in") == 1, "one process speaks"
    return found[1], found[2]


def test_two_processes_give_the_table_of_one(both):
    one, two = both
    assert table(one) == table(two)
    answers = sorted((one / "nano").glob("*/completions/**/*.jsonl"))
    assert len(answers) == 10
    for path in answers:
        assert path.read_text() == (two / path.relative_to(one)).read_text()


def test_sft_is_the_same_but_for_the_order_of_sums(both):
    one, two = (load_file(runs / "nano" / "sft" / "adapter" / "adapter_model.safetensors") for runs in both)
    assert one.keys() == two.keys() and max(float(weights.abs().max()) for weights in one.values()) > 0.1
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0)


def test_two_go_on_from_one_whose_processes_answered_a_part_and_rl_takes_the_same_steps(both, tmp_path):
    one, runs = both[0], tmp_path / "runs"
    shutil.copytree(one, runs)
    shutil.rmtree(runs / "nano" / "rl")
    stage = runs / "nano" / "sft"
    made = json.loads((stage / "manifest.json").read_text())
    lines = (stage / "completions" / "logic_v1.jsonl").read_text().splitlines(keepends=True)
    (stage / "partial" / "logic_v1").mkdir(parents=True)
    (stage / "partial" / "inputs.json").write_text(json.dumps(made.pop("scoring")["inputs"]))
    (stage / "manifest.json").write_text(json.dumps(made))
    kept = [json.loads(line) | {"text": "kept", "seconds": 1.0} for line in lines[:6]]
    for process, part in enumerate((kept[:4], kept[4:])):
        text = "".join(f"{answers.checked(json.dumps(row))}\n" for row in part) + '{"id": "cut'
        (stage / "partial" / "logic_v1" / f"{process}.jsonl").write_text(text)
    done = ladder(2, runs, "rl")
    assert done.returncode == 0, done.stderr
    now = (stage / "completions" / "logic_v1.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["text"] for line in now[:6]] == ["kept"] * 6 and now[6:] == lines[6:]

    alone, shared = steps(one, "rl"), steps(runs, "rl")
    for a, b in zip(alone, shared, strict=True):
        for key in ("step", "samples", "reward", "length", "mixed", "rates", "levels"):
            assert a[key] == b[key], key
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3) and a["grad_norm"] > 0
        assert b["moved"] == pytest.approx(a["moved"], rel=1e-3)


def test_what_cannot_be_shared_is_refused(tiny, tmp_path, monkeypatch, capsys):
    from pipeline import processes, rl, sft
    from pipeline.__main__ import main
    from pipeline.recipe import RlSettings, SftSettings
    from pipeline.reward import correctness
    from pipeline.samples import Task

    two = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True)
    monkeypatch.setattr(processes, "state", lambda: two)
    with pytest.raises(BadInput, match="sft.batch_size is 7, which 2 processes cannot share"):
        sft.train(*tiny, [], SftSettings(batch_size=7), 0, tmp_path)
    odd, pools = RlSettings(prompts=3, samples=3, micro_batch=3), {"sums 1": [PROBLEM]}
    with pytest.raises(BadInput, match="2 processes cannot share 3 prompts of 3 samples"):
        rl.train(*tiny, pools, {}, Task(correctness), odd, 0, tmp_path, "rl")
    for rank, said in (("0", "error: ask runs in one process"), ("1", "")):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        assert main(["ask", "What is 1 + 1?"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(said) and error.count("\n") == len(said[:1])


def test_one_of_several_leaves_past_what_aborts_at_the_interpreters_end():
    code = "import atexit, os; from pipeline import processes; atexit.register(os.abort); print('told'); "
    command = [sys.executable, "-c", f"{code} processes.leave(2)"]
    ended = [subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"WORLD_SIZE": n}) for n in "12"]
    assert [(done.returncode, done.stdout) for done in ended] == [(-signal.SIGABRT, b"told\n"), (2, b"told\n")]


def test_sharded_weights_decode_and_are_saved_whole(tiny, tmp_path):
    """What sft needs where FSDP2 deals the weights out; accelerate does so on cards only, torch on a CPU too."""
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    done = launched(2, [str(ROOT / "tests" / "sharded.py"), str(tmp_path)])
    assert done.returncode == 0, done.stderr
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(bool(weights.abs().sum()) for name, weights in saved.items() if "lora_B" in name)


def test_rl_refuses_sharded_weights(tiny, tmp_path, monkeypatch):
    from pipeline import rl
    from pipeline.recipe import RlSettings
    from pipeline.reward import correctness
    from pipeline.samples import Task

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match="sharded weights are for sft only"):
        rl.train(*tiny, {"sums 1": [PROBLEM]}, {}, Task(correctness), RlSettings(), 0, tmp_path, "rl")


@pytest.mark.parametrize(("name", "kind"), [("ddp", "multi_gpu"), ("fsdp2", "use_fsdp")])
def test_accelerate_takes_the_profiles(name, kind):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    command = ["--config_file", str(ROOT / "recipes" / "profiles" / f"{name}.yaml"), "--num_processes", "4"]
    command += ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "a", "--main_process_port", "29500"]
    taken, _, _ = _validate_launch_command(launch_command_parser().parse_args([*command, "-m", "pipeline", "all"]))
    assert getattr(taken, kind) and taken.module and taken.training_script == "pipeline"
    assert (taken.num_processes, taken.num_machines, taken.machine_rank) == (4, 2, 1)
    assert taken.mixed_precision == "no" and (kind != "use_fsdp" or int(taken.fsdp_version) == 2)


def test_one_process_on_several_cards_is_refused(tmp_path, monkeypatch, capsys):
    from pipeline.__main__ import main

    monkeypatch.setattr("pipeline.processes.cards", lambda: 4)
    assert main(["plain", "--base", "nano", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: there are 4 cards and one process; start one for each")
