"""The page of worked solutions shows what is written today. ``python -m tests.test_solutions_page`` writes it anew."""

import textwrap
from pathlib import Path

from data.dataset_spec import DatasetSpec
from data.datasets import load_train
from data.problem import Problem
from data.solutions import render_solution

PAGE = Path(__file__).parents[1] / "docs" / "solutions.md"

INTRODUCTION = """# Worked solutions

A train problem of a low, a middle and a high level of each family, with the solution that `sft` learns from
(`procedure`) and the older one (`short`), which `nano` learns from. Where only one is shown, both are the same.
[Design](design.md#solutions) says what makes a solution easy to learn. This page is written by a test.
"""


def build_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for benchmark in ("arithmetic_v1", "logic_v1"):
        problems = load_train(DatasetSpec(set=benchmark), 2000)

        for family in sorted({problem.family for problem in problems}):
            parts.append(f"## {family}\n")
            of_family = sorted((p for p in problems if p.family == family), key=lambda problem: problem.level)
            levels = sorted({problem.level for problem in of_family})
            # Not every family has all five.
            for level in sorted({levels[0], levels[len(levels) // 2], levels[-1]}):
                parts.append(show_problem(next(p for p in of_family if p.level == level)))
    return "\n".join(parts)


def show_problem(problem: Problem) -> str:
    """Return a problem with its solutions in two styles, and the answer."""
    question = f"Level {problem.level}: {problem.question} **{problem.answer}**"
    lines = [textwrap.fill(question, 120) + "\n"]
    solutions = {style: render_solution(problem, style) for style in ("procedure", "short")}
    if solutions["procedure"] == solutions["short"]:
        solutions = {"both": solutions["short"]}

    for style, solution in solutions.items():
        lines.append(f"```text\n{style}\n\n{solution}\n```\n")
    return "\n".join(lines)


def test_the_page_shows_what_is_written():
    assert PAGE.read_text() == build_page()


if __name__ == "__main__":
    PAGE.write_text(build_page())
