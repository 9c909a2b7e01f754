"""Every command in the documents is run or checked, and every file and link in them exists.

The blocks of ``sh`` of the tutorial, and of what goes on from it, are run in order in a copy of the project with a
finished run on nano. All other commands (blocks of ``sh``, ``bash`` or no language, and code within a line) are
checked: make's targets and variables, and all that its recipes call; the options of ours; the keys that SET= names.
What is neither is refused.
"""

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, SMALL

from data import sets
from data.records import BadInput
from data.splits import BENCHMARKS
from pipeline import recipe
from pipeline.base import BASES

WALKED = [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "extending.md"]  # in this order
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("recipes/**/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) +[?:]?=", MAKEFILE, re.M))
LAUNCHERS = ("torchrun", "accelerate")  # of what follows -m
# Programs that are not ours, and all that they are called with first.
OTHERS = {
    "export": "",
    "head": "-n",
    "pip": "install",
    "pre-commit": "install",
    "git": "checkout",
    ".": ".venv/bin/activate",
    "vllm": "serve",
}


def blocks(document: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(document.read_text()) if language in languages]


def inline(document: Path) -> list[str]:
    """The code within lines."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", document.read_text()))


def commands(document: Path) -> list[str]:
    """The commands of a document that are not run; a line of a block that is none is a path."""
    found = []
    for block in blocks(document, *([] if document in WALKED else ["sh"]), "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith(("runs/", "#")):
                found.append(line)
    found += [code for code in inline(document) if re.match(r"(make|python|pip|\.) |make$|python3? -m", code)]
    return [part for line in found for part in re.split(r" && | \| ", line)]


class Parsed(BaseException):
    """Raised where a command's options were taken: it would go on to work now."""


@pytest.fixture
def only_parsed(monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parsed(self, arguments=None, namespace=None):
        raise Parsed(parse(self, arguments, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)


def words_of(command: str) -> list[str]:
    """A command as words: comments go; of optional parts and of names to choose from one is taken; an ellipsis stands
    for what the README gives to the same module."""
    text = re.sub(r"\[([^\]]*) \.\.\.\]", r"\1", command)
    text = re.sub(r"\[(-[^\]]*)\]", r"\1", text).replace("FILE|NAME", "FILE")
    words = shlex.split(text, comments=True)
    if "…" in words:
        whole = next(c for c in commands(ROOT / "README.md") if c.startswith(f"python -m {words[2]} -"))
        words[3:4] = words_of(whole)[3:]
    return words


def check(words: list[str]) -> None:
    """Fail where a command could not be begun."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    program, *rest = words
    if Path(program).name in LAUNCHERS:
        return check(["python", *rest[rest.index("-m") :]])
    if program == "srun":
        return check(words_of(rest[-1]))
    if program in ("python", sys.executable) and rest[0] == "-m":
        module, options = rest[1], rest[2:]
        name = f"{module}.__main__" if module == "pipeline" else module
        try:
            status = importlib.import_module(name).main(options)
        except Parsed as taken:
            return check_values(taken.args[0])
        except SystemExit as error:
            status = error.code
        pytest.fail(f"{shlex.join(words)}: exit status {status}")
    elif program == "make":
        given = [word for word in rest if "=" in word]
        for word in rest:
            name = word.partition("=")[0]
            assert name in (VARIABLES | {"PYTHON"} if word in given else TARGETS), f"make has no {name}"
        plan = ["make", "-n", *rest, *([] if any(word.startswith("PYTHON=") for word in rest) else ["PYTHON=python"])]
        done = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.replace("\\\n", " ").splitlines():
            if "python -m pipeline" in line:
                check(shlex.split(line))
    else:
        first = OTHERS.get(program)
        assert first is not None and (rest or [""])[0].startswith(first), (
            f"{shlex.join(words)}: neither run nor checked; see OTHERS"
        )


def check_values(options: argparse.Namespace) -> None:
    """What options name: settings, bases and benchmarks that are known, or files, folders and sets of the hub."""
    base = getattr(options, "base", "")
    for item in getattr(options, "overrides", []):
        recipe.load("cpu", [item], base)
    for name in [base, *(getattr(options, "bases", None) or [])]:
        assert not name or name in BASES or re.search(r"[A-Z/.-]", name), f"base {name}"
    named = getattr(options, "benchmark", None) or []
    for spec in [named] if isinstance(named, str) else named:
        name, mapping = sets._parsed(spec)
        assert name in {*BENCHMARKS, *sets.BUILT_IN} or re.search(r"[A-Z/.]", name), f"benchmark {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_can_be_begun(document, only_parsed):
    for command in commands(document):
        check(words_of(command))


def test_a_command_with_a_slip_is_found(only_parsed):
    for slip in (
        "make smok",
        "make BAES=nano",
        "make rl SET=rl.learning_rat=1",
        "make BENCHMARK=gsm9k",
        "python -m pipeline adaptiv",
        "python -m pipelin all",
        "python -m pipeline all --benchmarks mine.jsonl",
        "python -m eval.score --model runs/BASE/sft --prompt think --out out",
        "ollama run nano",
    ):
        with pytest.raises((AssertionError, BadInput, ModuleNotFoundError, pytest.fail.Exception)):
            check(words_of(slip))


@pytest.fixture(scope="module")
def walked(run, tmp_path_factory):
    """A copy of the project in which the tutorial was walked: (folder, what each block printed)."""
    folder = tmp_path_factory.mktemp("tutorial") / "ladder"
    skipped = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "shared")
    shutil.copytree(ROOT, folder, ignore=skipped)
    shutil.copytree(run, folder / "runs")
    script = ["set -eo pipefail"]
    for i, block in enumerate(block for document in WALKED for block in blocks(document, "sh")):
        script += [f"echo '@@@ {i}'", block.replace('SET="', f'SET="{" ".join(SMALL)} ')]
    here = {"PYTHON": sys.executable, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    small = {"LIMIT": str(LIMIT), "PROFILE": "cpu", "SET": " ".join(SMALL)}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=folder, capture_output=True, text=True, env=os.environ | here | small
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, re.split(r"^@@@ \d+\n", done.stdout, flags=re.M)[1:]


def test_the_tutorial_does_what_it_says(walked):
    folder, printed = walked
    text = "".join(document.read_text() for document in WALKED)
    shown = [body for body in re.findall(r"```sh\n.*?```\n+(?:```text\n(.*?)```)?", text, re.S)]
    assert len(shown) == len(printed)
    for wanted, found in zip(shown, printed, strict=True):
        # Numbers and what nano writes change with the settings; the names of the rows and the kinds of lines do not.
        for line in wanted.splitlines():
            name = re.match(r"((?:arithmetic|logic)_v1 +[a-z]+|  ok  [A-Za-z ]+?  |[a-z]+ +up to date)", line)
            assert name is None or re.sub(" +", " ", name[0]).strip() in re.sub(" +", " ", found), line
    for made in (
        "runs/nano/report.html",
        "runs/nano/brief/scores.json",
        "nano-sft/model.safetensors",
        "mine/scores.json",
    ):
        assert (folder / made).is_file(), made


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_named_files_exist(document, walked):
    folder, _ = walked
    text = FENCE.sub("", document.read_text())
    here = document.parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in target or (here / target).exists(), f"link to {target}"
    everywhere = {path.name for path in folder.rglob("*")}
    for code in inline(document):
        path = code.partition(":")[0]
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(py|md|yaml|toml|txt|json|jsonl|html|svg|png)", path):
            placeholder = re.search(r"\b[A-Z]{4,}\b(?!\.md)", path)
            there = [(place / path).exists() for place in (ROOT, here, folder, ROOT / "recipes")]
            assert placeholder or any(there) or ("/" not in path and path in everywhere | OF_LONGER_RUNS), path
    for name, path in re.findall(r"`(\w+)` \(`([\w/]+\.py)`\)", text):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} in {path}"


# Files of commands that take too long here.
OF_LONGER_RUNS = {"alarm.txt", "refused.json", "tradeoff.png", "tradeoff.svg", "tradeoff.md", "tradeoff.json"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_fits_a_line_of_120(document):
    prose = [line for line in FENCE.sub("", document.read_text()).splitlines() if not line.lstrip().startswith("|")]
    assert [line for line in prose if len(line) > 120] == []
