"""Bad input gets one line and exit status 2, and leaves nothing behind; every --help works."""

import errno
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from data.files import write_jsonl
from pipeline import __main__ as command_line
from pipeline.run import read_recipe
from pipeline.run_dir import RunDir
from pipeline.stages import CONTROLS, STAGES

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = json.dumps({"id": "1", "question": "What is 1 + 1?", "answer": "2"})

COMMANDS = (
    *[stage.name for stage in STAGES],
    *("all", "controls", "table", "seeds", "report", "plan", "status", "check", "compare", "export"),
    *("ask", "traces", "tradeoff", "score", "studies"),
)


def run_module(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run ``python -m MODULE OPTIONS`` without the hub."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )


@pytest.fixture
def refuse(capsys, monkeypatch):
    """The function that carries out a command that must be refused, and returns the line that says why."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def carry_out(*arguments: object) -> str:
        assert command_line.main([str(argument) for argument in arguments]) == 2

        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return carry_out


def test_the_commands_are_those_of_the_contract():
    _, commands = command_line.build_parser()
    assert set(commands) == set(COMMANDS)


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main([*command, "--help"])

    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_control_runs_after_the_stage_that_it_imitates(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(command_line, "run_stages", lambda options: ran.extend(options.to_run))
    command_line.main(["controls", "rl_first_again", "--profile", "cpu", "--runs", str(tmp_path)])
    assert [stage.name for stage in ran] == ["rl", "rl_first_again"]

    ran.clear()
    command_line.main(["controls", "--profile", "cpu", "--runs", str(tmp_path)])
    names = [stage.name for stage in ran]
    assert sorted(names) == sorted(["sft", "rl", *(control.name for control in CONTROLS)])
    assert all(names.index(control.control_of) < names.index(control.name) for control in CONTROLS)


def test_a_control_that_cannot_be_trained_is_refused_before_any_is(refuse, monkeypatch, tmp_path):
    rows = [{"id": f"p{i}", "question": f"Is {i} prime?", "answer": "yes", "choices": ["yes", "no"]} for i in range(20)]
    write_jsonl(tmp_path / "facts.jsonl", rows)

    def run_stage(run, stage):
        raise AssertionError(f"{stage.name} was run")

    def open_run(options):
        return types.SimpleNamespace(recipe=read_recipe(options), dir=RunDir(tmp_path / "run"))

    monkeypatch.setattr(command_line, "open_run", open_run)
    monkeypatch.setattr(command_line, "run_stage", run_stage)
    # GRPO takes such answers; one of its controls keeps samples of expert iteration.
    options = ["--set", f"rl.problems=[{tmp_path / 'facts.jsonl'}]", "--set", "rl.algorithm=grpo"]
    error = refuse("controls", "--profile", "cpu", *options)
    assert error.startswith("error: rl_random_keep: rl.problems: ")
    assert "can be guessed" in error

    options = ["--set", "rl.grpo.trainer.num_iterations=2"]
    assert "rl_random_reward: rl.grpo.trainer: " in refuse("controls", "--profile", "cpu", *options)


@pytest.mark.parametrize("module", ["pipeline", "data.datasets", "eval.grade", "eval.errors"])
def test_help_of_every_module(module):
    done = run_module(module, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_help_imports_no_torch():
    code = "import sys; import pipeline.__main__ as m; m.build_parser(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", ["table", "seeds", "report", "status"])
def test_what_only_reads_imports_no_torch(command, run, tmp_path):
    folder = tmp_path / "runs" / "nano-tiny"
    shutil.copytree(run / "nano-tiny", folder)
    # Another run, as if of another seed.
    shutil.copytree(run / "nano-tiny", folder / "seed-2")

    options = ("--base", "nano-tiny", "--profile", "cpu", "--limit", "40")
    arguments = [command, "--runs", str(tmp_path / "runs"), *options]
    code = f"import sys; from pipeline.__main__ import main; sys.exit(main({arguments!r}) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("base", ["nano", "smollm2-135m"])
def test_status_makes_no_base(base, tmp_path):
    options = ("--base", base, "--profile", "cpu", "--runs", tmp_path / "runs")
    done = run_module("pipeline", "status", *options, LADDER_CACHE=str(tmp_path / "cache"))
    assert "sft       not run yet\n" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["plain", "--base", "smollm2-135n"], "did you mean smollm2-135m?"),
        (["plain", "--base", "no/such/model/at/all"], "is unknown"),
        (["plain", "--base", "absent.gguf"], "no such file"),
        (["plain", "--profile", "gpux"], "did you mean gpu?"),
        (["plain", "--limit", "0"], "greater than or equal to 1"),
        (["plain", "--limit", "-3"], "greater than or equal to 1"),
        (["plain", "--seed", "-3"], "greater than or equal to 0"),
        (["plain", "--seed", "two"], "--seed: invalid int value: 'two'"),
        (["sft", "--samples", "0"], "--samples: must be 1 or more"),
        (["cot", "--samples", "8"], "unrecognized arguments: --samples 8"),
        (["table", "--samples", "8"], "unrecognized arguments: --samples 8"),
        (["controls", "sft_shufled"], "did you mean sft_shuffled?"),
        (["controls", "sft"], "control 'sft' is unknown"),
        (["seeds"], "make SEED=2"),
        (["plain", "--set", "sft.trainer.learning_rat=1"], "did you mean learning_rate?"),
        (["plain", "--set", "sft.dev=many"], "sft.dev: must be a valid integer"),
        (["plain", "--set", "sft.problems=gsm9k"], "did you mean gsm8k?"),
        (["plain", "--set", "sft.problems=absent.jsonl"], "no such file"),
        (["plain", "--set", "report_to=trakio"], "'trackio', 'wandb'"),
        (["plain", "--set", "rl.rewards=[coin]"], "coin"),
        (["plain", "--set", "rl.learnability.samples=1"], "rl.learnability.samples: must be 0, or 2 or more, not 1"),
        (["plain", "--set", "sft.lora.target_modules=[q_prj]"], "sft.lora: Target modules {'q_prj'} not found in"),
        (["plan", "--set", "sft.trainer.learning_rat=1"], "did you mean learning_rate?"),
        (["plain", "--set", "rl.grpo.trainer.disable_dropout=false"], "the pipeline sets it itself"),
        (["plain", "--benchmark", "absent.jsonl"], "no such file"),
        (["plain", "--benchmark", "gsm9k"], "did you mean gsm8k?"),
        (["status", "--base", "nanoo"], "did you mean nano?"),
        (["status", "--benchmark", "absent.jsonl"], "no such file"),
        (["table"], "no stage has scores"),
        (["report"], "no stage has scores"),
        (["ask", "What is 1 + 1?", "--budget", "-1"], "--budget: must be 0 or more"),
        (["compare", "--bases", "q4/model.gguf", "q8/model.gguf"], "model"),
    ],
)
def test_bad_input_is_one_line_with_status_2(tmp_path, refuse, options, words):
    error = refuse(*options, "--runs", tmp_path / "runs")

    assert words in error
    assert not (tmp_path / "runs").exists()


SCORE = ["score", "--model", "nano-tiny", "--benchmark", "logic_v1", "--prompt", "think", "--out", "out"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["adaptiv"], "did you mean adaptive?"),
        ([], "COMMAND"),
        (["plain", "--limit", "ten"], "invalid int value: 'ten'"),
        (["export", "--to", "out", "--stage", "plaim"], "invalid choice"),
        ([*SCORE, "--samples", "0"], "--samples: must be 1 or more"),
        ([*SCORE, "--limit", "0"], "--limit: must be 1 or more"),
        ([*SCORE, "--min-thinking", "-1"], "--min-thinking: must be 0 or more"),
        ([*SCORE, "--shots", "-1"], "--shots: must be 0 or more"),
        ([*SCORE, "--seed", "2"], "--seed: the one greedy answer has none; add --samples"),
        ([*SCORE, "--temperature", "0.5"], "--temperature: the one greedy answer has none"),
        ([*SCORE, "--budget", "5", "--min-thinking", "6"], "--budget 5: it is below --min-thinking 6"),
        ([*SCORE, "--samples", "2", "--temperature", "-1"], "--temperature is -1.0"),
        ([*SCORE, "--samples", "2", "--temperature", "nan"], "--temperature is nan"),
        ([*SCORE[:-4], "--prompt", "thinc", "--out", "out"], "did you mean think?"),
    ],
)
def test_a_wrong_command_line_is_one_line_too(refuse, options, words):
    assert words in refuse(*options)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("eval.grade", ["--benchmark", "logic_v1"], "--completions, --out"),
        ("data.datasets", ["--set", "logic_v1", "--split", "dev", "--out", "/proc/no/such"], "/proc/no"),
        ("pipeline", ["plain", "--set", "stf.dev=3"], "did you mean sft?"),
    ],
)
def test_every_command_line_refuses_in_one_line(module, options, words):
    done = run_module(module, *options)

    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "not JSON"),
        ('{"id": "2", "question": "?"}', "'answer'"),
        (GOOD, "already at"),
        ('{"id": "2", "question": "?", "answer": "about ten", "kind": "number"}', "about ten"),
    ],
)
def test_a_malformed_benchmark_line_is_named(tmp_path, refuse, line, words):
    benchmark = tmp_path / "bench.jsonl"
    benchmark.write_text(f"{GOOD}\n{line}\n")

    error = refuse("plain", "--benchmark", benchmark, "--runs", tmp_path / "runs")
    assert words in error
    assert "bench.jsonl:2" in error
    assert not (tmp_path / "runs").exists()


def test_a_command_for_one_process_is_not_run_by_several(refuse, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "ask runs in one process" in refuse("ask")


def test_several_gpus_want_several_processes(refuse, monkeypatch):
    monkeypatch.setattr(command_line.processes, "count_gpus", lambda: 4)
    assert "there are 4 GPUs and one process; start one for each (make PROCESSES=4), or show" in refuse("plain")
    # It has no second process to be started.
    assert "there are 4 GPUs and one process; show it one GPU" in refuse("plan")


def test_a_disk_that_fills_up_meanwhile_is_one_line_with_status_2(refuse, monkeypatch):
    def fill(options):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/nano/sft/adapter")

    monkeypatch.setattr(command_line, "run_stages", fill)
    error = refuse("plain")
    assert error == "error: runs/nano/sft/adapter: no space left on the disk; free some and rerun\n"


# A second large block gets the pages of the first, which the system need not clear again.
COUNT_CLEARED_PAGES = """
import resource
from pipeline.__main__ import keep_freed_memory

keep_freed_memory()
bytearray(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(2**26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept():
    counted = subprocess.run([sys.executable, "-c", COUNT_CLEARED_PAGES], cwd=ROOT, capture_output=True, check=True)

    # Without it some 16,000 of 4 KiB.
    assert int(counted.stdout) < 1000
