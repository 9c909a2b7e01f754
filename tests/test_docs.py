"""Every command in the documents is run or checked, and every file and link in them exists.

The ``sh`` blocks of the tutorial, and of what goes on from it, are run in order in a copy of the project. All other
commands are only begun: make's targets and variables, and what its recipes call; the options of ours; the keys, the
data sets and the bases that they name. A command that is neither is refused.
"""

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.dataset_spec import BUILT_IN, parse_spec
from data.datasets import BENCHMARKS
from data.files import UserError
from pipeline.config import check_trainers, load_recipe, load_studies
from pipeline.models.download import KNOWN_BASES
from pipeline.studies import STUDIES
from pipeline.studies.study import load_study

# The walk is set up by whichever test asks for it first.
pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
GUIDE = ROOT / "docs" / "guide.md"
EXTENDING = ROOT / "docs" / "extending.md"
WALKED = (TUTORIAL, GUIDE, EXTENDING)  # in this order
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("recipes/**/*.md")))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE_COMMAND = re.compile(r"([A-Z_]+=\S+ )*(make|python3?|pip|accelerate|torchrun|\.) |make$")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
VARIABLES = {"PYTHON", *re.findall(r"^([A-Z_]+) +[?:]?=", MAKEFILE, re.M)}

# Programs that are not ours, and what they are called with first.
OTHERS = {
    ".": ".venv/bin/activate",
    "export": "",
    "git": "",
    "pip": "install",
    "pre-commit": "install",
    "python3": "-m",
    "vllm": "serve",
}

# Files of commands that are not run here.
OF_OTHER_RUNS = {
    "alarm.txt",
    "learnability.json",
    "pass_at_k.json",
    "plot.png",
    "result.json",
    "seeds.json",
    "seeds.md",
    "summary.md",
    "tradeoff.png",
}

# Reading documents


def read_blocks(document: Path, *languages: str) -> list[str]:
    blocks = []
    for language, body in FENCE.findall(document.read_text()):
        if language in languages:
            blocks.append(body)
    return blocks


def read_prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def read_inline(document: Path) -> list[str]:
    """The code within lines."""
    return re.findall(r"`([^`\n]+)`", read_prose(document))


def find_commands(document: Path) -> list[str]:
    """The commands of a document that are not run."""
    lines = [code for code in read_inline(document) if INLINE_COMMAND.match(code)]

    languages = ("", "bash") if document in WALKED else ("", "bash", "sh")
    for block in read_blocks(document, *languages):
        for line in block.replace("\\\n", " ").splitlines():
            # What begins with a path is a list of files, unless that is a program.
            if line.strip() and not re.match(r"(?!\.\w+/bin/)[\w.]+/|#|\s", line):
                lines.append(line)

    commands = []
    for line in lines:
        commands += [part for part in re.split(r" && | \| ", line) if "…" not in part]
    return commands


def split_words(command: str) -> list[str]:
    """A command as words; optional parts are taken, and of several names the first."""
    text = re.sub(r"\[([^\]]*) \.\.\.\]", r"\1", command)
    text = re.sub(r"\[(-[^\]]*)\]", r"\1", text)
    text = re.sub(r"([\w.]+)(\|[\w.]+)+", r"\1", text)
    text = re.sub(r"\bN\b", "3", text)
    return shlex.split(text, comments=True)


# Checking commands


class Parsed(BaseException):
    """Raised where a command's options were taken, before it goes on to work."""


@pytest.fixture
def only_parsed(monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def stop(self, arguments=None, namespace=None):
        raise Parsed(parse(self, arguments, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)


def check_command(words: list[str]) -> None:
    """Fail where a command could not be begun."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return

    program, *rest = words
    if Path(program).name in ("accelerate", "torchrun"):
        check_launcher(rest)
    elif Path(program).name in ("python", Path(sys.executable).name) and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif program == "make":
        check_make(rest)
    else:
        first = OTHERS.get(program) or OTHERS.get(Path(program).name)
        is_known = first is not None and (rest or [""])[0].startswith(first)
        assert is_known, f"{shlex.join(words)}: neither run nor checked; see OTHERS"


def check_launcher(words: list[str]) -> None:
    """Check the file that a launcher is given, and what it starts."""
    if "--config_file" in words:
        file = words[words.index("--config_file") + 1]
        assert (ROOT / file).is_file(), file

    check_command(["python", *words[words.index("-m") :]])


def check_module(module: str, arguments: list[str]) -> None:
    """Check the options of a command of ours, or of pytest."""
    if module == "pytest":
        assert all((ROOT / name).exists() for name in arguments if not name.startswith("-")), arguments
        return

    name = f"{module}.__main__" if module == "pipeline" else module
    try:
        status = importlib.import_module(name).main(arguments)
    except Parsed as parsed:
        check_values(parsed.args[0])
        return
    except SystemExit as error:
        status = error.code
    pytest.fail(f"{module} {shlex.join(arguments)}: exit status {status}")


def check_make(words: list[str]) -> None:
    """Check targets and variables, and the commands that make would run."""
    for word in words:
        name, equals, _ = word.partition("=")
        assert name in (VARIABLES if equals else TARGETS), f"make has no {name}"

    python = [] if any(word.startswith("PYTHON=") for word in words) else ["PYTHON=python"]
    done = subprocess.run(["make", "-n", *words, *python], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    for line in done.stdout.replace("\\\n", " ").splitlines():
        if "python -m pipeline" in line:
            check_command(shlex.split(line))


def check_values(options: argparse.Namespace) -> None:
    """Check what options name: keys, profiles, bases and data sets that are known, or files, or sets of the hub."""
    if getattr(options, "command", "") == "studies":
        assert all(name in STUDIES for name in options.names), options.names
        load_studies({name: load_study(name).Settings for name in STUDIES}, options.overrides)
        return

    base = getattr(options, "base", "")
    profile = getattr(options, "profile", None) or "cpu"
    overrides = getattr(options, "overrides", [])
    recipe = load_recipe(profile, overrides, base)
    if overrides:
        check_trainers(recipe)

    for name in [base, *(getattr(options, "bases", None) or [])]:
        assert not name or name in KNOWN_BASES or re.search(r"[A-Z/.-]", name), f"base {name}"

    benchmarks = getattr(options, "benchmark", None) or []
    for text in [benchmarks] if isinstance(benchmarks, str) else benchmarks:
        name = parse_spec(text).set
        assert name in {*BENCHMARKS, *BUILT_IN} or re.search(r"[A-Z/.]", name), f"benchmark {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_can_be_begun(document, only_parsed):
    for command in find_commands(document):
        check_command(split_words(command))


@pytest.mark.parametrize(
    "slip",
    [
        "make smok",
        "make BAES=nano",
        "make rl SET=rl.learning_rate=1",
        "make sft SET=sft.trainer.learning_rat=1",
        "make PROFILE=gpus",
        "make BENCHMARK=gsm9k",
        "python -m pipeline adaptiv",
        "python -m pipelin all",
        "python -m pipeline all --benchmarks mine.jsonl",
        "python -m pipeline score --model runs/BASE/sft --prompt think --out out",
        "accelerate launch --config_file recipes/accelerate/dpd.yaml -m pipeline all",
        "ollama run nano",
    ],
)
def test_a_command_with_a_slip_is_found(slip, only_parsed):
    with pytest.raises((AssertionError, UserError, ModuleNotFoundError, pytest.fail.Exception)):
        check_command(split_words(slip))


# Walking the tutorial


@dataclass(frozen=True)
class Walk:
    """A copy of the project in which all blocks were run, and what each of them printed."""

    folder: Path
    printed: list[str]


@pytest.fixture(scope="module")
def walk(run, tmp_path_factory) -> Walk:
    folder = tmp_path_factory.mktemp("walk") / "ladder"
    skipped = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "shared")
    shutil.copytree(ROOT, folder, ignore=skipped)
    shutil.copytree(run, folder / "runs")

    script = ["set -eo pipefail"]
    for document in WALKED:
        for block in read_blocks(document, "sh"):
            script += ["echo @@@", shrink_block(block)]

    environment = {
        "PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PROFILE": "cpu",
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Walk(folder, done.stdout.split("@@@\n")[1:])


def shrink_block(block: str) -> str:
    """The block on nano-tiny."""
    return re.sub(r"(BASE=|--base |/|resolve\(\")nano\b(?!-)", r"\1nano-tiny", block)


def read_scored_stages(run_folder: Path) -> set[str]:
    return {path.parent.name for path in run_folder.glob("*/scores.json")}


def test_the_walk_prints_what_the_documents_show(walk):
    shown = []
    for document in WALKED:
        shown += re.findall(r"```sh\n.*?^```\n+(?:```text\n(.*?)```)?", document.read_text(), re.M | re.S)
    assert any(shown)

    for text, printed in zip(shown, walk.printed, strict=True):
        assert text in printed


def test_the_tutorial_leaves_what_it_says(walk):
    runs = walk.folder
    assert (runs / "runs/nano-tiny/report.html").is_file()
    assert (runs / "mine/scores.json").is_file()
    assert (runs / "nano-sft/model.safetensors").is_file()

    assert "sft" in read_scored_stages(runs / "runs-rank8/nano-tiny")
    assert read_scored_stages(runs / "runs-gsm8k/nano-tiny") == {"plain", "cot", "sft", "rl", "adaptive"}
    assert "brief.py:brief" in (runs / "runs-brief/nano-tiny/rl/recipe.yaml").read_text()


def test_the_library_scores_grades_and_makes_traces(walk):
    printed = walk.printed[len(read_blocks(TUTORIAL, "sh"))]
    assert re.fullmatch(r"correct: \d+ of 20\nverdict: correct\n", printed)
    assert (walk.folder / "samples.jsonl").read_text().count("\n") == 80
    assert (walk.folder / "traces.jsonl").is_file()


def test_what_extends_the_project_was_run(walk):
    runs = walk.folder / "runs"
    assert {"more", "rl_format"} <= read_scored_stages(runs / "nano-tiny")
    assert "brevity.py:brevity" in (walk.folder / "runs-brevity/nano-tiny/rl/recipe.yaml").read_text()

    assert "sft" in read_scored_stages(walk.folder / "runs-ages/nano-tiny")
    assert read_scored_stages(runs / "nano-sft") == {"plain"}


def test_the_new_base_has_its_name(walk):
    """Its weights are on the hub, so what is asked is what its name would be corrected to."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "check", "--base", "smollm2-1.8b"],
        cwd=walk.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "did you mean smollm2-1.7b?" in done.stderr


# Files, links and lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(document)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in read_anchors(linked), target


def read_anchors(document: Path) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", read_prose(document), re.M):
        anchors.add(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document, walk):
    names = OF_OTHER_RUNS | {path.name for path in walk.folder.rglob("*")}
    places = (ROOT, document.parent, walk.folder, ROOT / "recipes")

    for code in read_inline(document):
        path = code.partition(":")[0]
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(py|md|yaml|toml|txt|json|jsonl|html|svg|png)", path)
        if not is_path or re.search(r"\b[A-Z]{4,}\b(?!\.md)", path):
            continue

        path = path.replace("/nano/", "/nano-tiny/")
        is_there = any((place / path).exists() for place in places)
        assert is_there or ("/" not in path and path in names), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_code_is_where_it_is_said_to_be(document):
    for name, path in re.findall(r"`(\w+)` \(`([\w/]+\.py)`\)", read_prose(document)):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} in {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_fits_a_line_of_120(document):
    for line in read_prose(document).splitlines():
        assert len(line) <= 120 or line.lstrip().startswith("|"), line
