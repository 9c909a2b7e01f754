"""Two processes on the CPU (gloo) do together what one does."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from data.files import read_appended_jsonl
from data.problem import Problem
from pipeline.evaluate import evaluate


def find_free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launch_processes(root, count, *command):
    """Run a Python command in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(find_free_port())]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )


@pytest.fixture(scope="module")
def together(root, tiny, tmp_path_factory):
    """The folder that in_two_processes.py leaves after its work on the tiny model."""
    folder = tmp_path_factory.mktemp("together")
    for part in tiny:
        part.save_pretrained(folder / "base")

    done = launch_processes(root, 2, root / "tests" / "pipeline" / "in_two_processes.py", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_write_the_completions_of_one(together, tiny):
    first, second = (json.loads((together / f"returned_{i}.json").read_text()) for i in range(2))
    assert first == second

    problems = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(9)]
    settings = {"max_new_tokens": 12, "batch_size": 4, "temperature": 1.0, "label": "test"}
    alone = evaluate(*tiny, problems, "think", **settings)
    assert [asdict(completion) for completion in alone.completions] == first

    shares = [read_appended_jsonl(together / "partial" / f"{i}.jsonl") for i in range(2)]
    assert [len(share) for share in shares] == [5, 4]

    # One process goes on from what two of them left.
    resumed = evaluate(*tiny, problems, "think", partial=together / "partial", **settings)
    assert resumed.completions == alone.completions


def test_all_processes_get_the_main_ones_error(together):
    assert [(together / f"error_{i}.txt").read_text() for i in range(2)] == ["bad input"] * 2


def test_sharded_weights_decode_and_are_saved_whole(together):
    """What sft needs where FSDP2 splits the weights; accelerate does so on GPUs only, torch on a CPU too."""
    saved = load_file(together / "adapter" / "adapter_model.safetensors")
    assert any(bool(weights.abs().sum()) for name, weights in saved.items() if "lora_B" in name)
    assert all(isinstance(weights, torch.Tensor) for weights in saved.values())


@pytest.mark.parametrize(("world_size", "status"), [("1", -signal.SIGABRT), ("2", 2)])
def test_one_of_several_leaves_past_what_aborts_at_the_interpreters_end(root, world_size, status):
    code = (
        "import atexit, os; from pipeline import processes; atexit.register(os.abort); print('x'); processes.leave(2)"
    )
    environment = os.environ | {"WORLD_SIZE": world_size}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, env=environment)

    assert done.returncode == status
    assert done.stdout == b"x\n"


def test_after_ctrl_c_a_command_says_so_and_ends_by_its_signal(root):
    """So a loop of the shell ends, too."""
    code = """
import sys
from data.command_line import exit_on_user_error
from pipeline import processes

@exit_on_user_error
def main(arguments=None):
    print("begun")
    raise KeyboardInterrupt

processes.leave(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)

    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("begun\n", "stopped\n")


@pytest.mark.parametrize(("name", "kind"), [("ddp", "multi_gpu"), ("fsdp2", "use_fsdp")])
def test_accelerate_takes_our_configurations(root, name, kind):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    command = ["--config_file", str(root / "recipes" / "accelerate" / f"{name}.yaml"), "--num_processes", "4"]
    command += ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "a", "--main_process_port", "29500"]
    arguments = launch_command_parser().parse_args([*command, "-m", "pipeline", "all"])
    launched, _, _ = _validate_launch_command(arguments)

    assert getattr(launched, kind)
    assert launched.module
    assert launched.training_script == "pipeline"
    assert (launched.num_processes, launched.num_machines, launched.machine_rank) == (4, 2, 1)
    assert launched.mixed_precision == "no"
    assert kind != "use_fsdp" or int(launched.fsdp_version) == 2


def test_counting_gpus_imports_no_torch_where_there_is_none(root):
    code = "import sys; from pipeline import processes; processes.GPU_DEVICES = (); "
    code += "print(processes.count_gpus(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "0 False\n"


@pytest.fixture(scope="module")
def run_of_two(root, tmp_path_factory):
    """The folder ``runs`` of a run of all stages in two processes, with the options of the fixture ``run``."""
    runs = tmp_path_factory.mktemp("of_two")
    options = ["--runs", runs, "--base", "nano-tiny", "--profile", "cpu", "--limit", "40", "--samples", "2"]
    done = launch_processes(root, 2, "-m", "pipeline", "all", *options)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results are in") == 1, "only one process speaks"
    assert done.stdout.count("pass@2") == 1
    return runs


def read_rows(runs, stages):
    """The rows of some stages, without what depends on the clock."""
    rows = json.loads((runs / "nano-tiny" / "table.json").read_text())
    return [{key: row[key] for key in row if key != "seconds"} for row in rows if row["stage"] in stages]


def test_two_processes_give_the_rows_of_one(run, run_of_two):
    stages = ("plain", "cot")
    assert read_rows(run, stages)
    assert read_rows(run_of_two, stages) == read_rows(run, stages)


def test_two_processes_train_the_adapter_of_one(run, run_of_two):
    """But for the order of sums."""
    file = "nano-tiny/sft/adapter/adapter_model.safetensors"
    one, two = load_file(run / file), load_file(run_of_two / file)

    assert max(float(weights.abs().max()) for weights in one.values()) > 0.01
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0)
