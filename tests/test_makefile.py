"""What make passes on, and what it refuses."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_make(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Let make print what it would run, or refuse."""
    # Where make itself runs the tests, its own variables do not count.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "-n", "PYTHON=python", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=inherited | environment,
    )


@pytest.mark.parametrize("variable", ["SEED=2", "PROFILE=quick", "LIMIT=5", "BENCHMARK=logic_v1"])
@pytest.mark.parametrize("target", ["study", "studies"])
def test_a_study_refuses_what_would_not_reach_it(target, variable):
    done = run_make(target, variable)
    assert done.returncode == 2
    assert "a study has a recipe of its own; change it by SET=" in done.stderr

    assert run_make(target).returncode == 0


def test_a_name_is_taken_from_the_command_alone():
    """Other programs have a variable NAME, too, such as WSL."""
    assert "HOSTNAME-1" not in run_make("controls", NAME="HOSTNAME-1").stdout
    assert "rl_first_again" in run_make("controls", "NAME=rl_first_again").stdout


def test_what_chooses_a_run_may_stand_in_the_environment():
    assert '--base "nano"' in run_make("rl", BASE="nano").stdout


def test_an_older_python_is_told_before_anything_is_installed(tmp_path):
    # It is the check of the Makefile itself, with another version in it.
    makefile = (ROOT / "Makefile").read_text()
    assert makefile.count("(3, 11)") == 1
    (tmp_path / "Makefile").write_text(makefile.replace("(3, 11)", "(4, 0)"))
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()

    done = subprocess.run(["make", "env"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: python3 is Python 3." in done.stderr
    assert not (tmp_path / ".venv").exists()
