"""A run as the report and the comparison see it, made in memory."""

import pytest

from data.datasets import load
from data.problem import Completion
from eval.grade import grade_all
from eval.run_view import RunView, StageView
from eval.score import score_completions
from eval.table import StageScores, make_rows

NUMBERS = {"plain": 1, "cot": 2, "sft": 3, "rl": 4, "adaptive": 5, "control": 3}

MANIFEST = {
    "hardware": {"gpu": None, "processor": "a processor", "cores": 2, "memory_gib": 23.5},
    "versions": {"torch": "2.13.0"},
    "seconds": 12.0,
    "inputs": {"settings": {}},
    "commit": "abcdef0123456",
    "finished": "2026-11-24T10:00:00+00:00",
}


def make_stage(name, problems, text, max_new_tokens, compared_to):
    entries = []
    completions = {}
    grades = {}

    for benchmark, asked in problems.items():
        key = ("zero-shot", benchmark)
        completions[key] = [Completion(problem.id, text(problem), 9, 20, 5, "stop") for problem in asked]
        grades[key] = grade_all(asked, completions[key])
        about = {"benchmark": benchmark, "benchmark_sha256": str(len(asked)), "overlaps": 0}
        entries.append(about | score_completions(asked, completions[key], grades[key], 1.0))

    scores = {
        "stage": name,
        "number": NUMBERS[name],
        "control": name == "control",
        "compared_to": compared_to.get(name, []),
        "alarm": None,
        "extraction_version": 2,
        "base": "fingerprint",
        "load": "fp32",
        "max_new_tokens": max_new_tokens,
        "variants": [{"variant": "zero-shot", "benchmarks": entries}],
    }
    return StageView(name, scores, completions, grades, [], {"scoring": MANIFEST}, f"{name}:\n  seed: 1\n")


@pytest.fixture(scope="session")
def make_view():
    """The function that makes a run whose every text is ``text(problem)``."""

    def make(name, stages, n, text, max_new_tokens=160, compared_to={}):  # noqa: B006
        problems = {benchmark: load(benchmark, "test").problems[:n] for benchmark in ("arithmetic_v1", "logic_v1")}
        views = [make_stage(stage, problems, text, max_new_tokens, compared_to) for stage in stages]
        rows = make_rows([StageScores(view.name, view.scores, view.grades) for view in views])
        return RunView(name, rows, views, problems)

    return make


@pytest.fixture(scope="session")
def answer_correctly():
    """The function that writes a worked, correct answer."""
    return lambda problem: f"<think>\n{problem.rationale}\n</think>\n\\boxed{{{problem.answer}}}"


@pytest.fixture(scope="session")
def hostile_text():
    """A text that would be markup, a script and a template, where it were not shown as text."""
    return '<script>document.title="owned"</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</article>'
