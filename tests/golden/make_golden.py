"""Write the golden files: what must stay the same while the code around it is moved.

    python tests/golden/make_golden.py [FOLDER]

writes grades.jsonl, checksums.json, prompts.jsonl and solutions.jsonl into FOLDER (default: beside this file). They
were first written at 82ff056, before anything was moved; the grades again with extraction version 3. In checksums.json
the entries "test" are those of the test split that took the place of the first one, which had been scored too often;
grades.jsonl and prompts.jsonl are still made from the first one, so that they stay comparable.
``tests/test_golden.py`` writes them again and compares.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from data.datasets import load
from data.generated import build_first_test
from data.problem import Completion, Problem
from data.solutions import render_solution
from eval.grade import grade
from pipeline.prompts import build_messages

BENCHMARKS = ("arithmetic_v1", "logic_v1")
SPLITS = ("train", "dev", "test")
GRADES = 1500
PROMPTS = 200  # of each kind
SOLUTIONS = 200  # of each style

# What a model may write around an answer. "{a}" is the right answer, "{w}" a wrong one.
FORMS = (
    "\\boxed{{{a}}}",
    "<think>\n1 + 1 = 2\n</think>\n\\boxed{{{a}}}",
    "<think></think>\n\\boxed{{{w}}}",
    "<think>\n1 + 1 = 2\n\\boxed{{{a}}}",
    "The answer is {a}.",
    "The answer is **{a}**",
    "Answer: {a}",
    "So it is {a}, I think.",
    "It is not {w}. The answer is {a} because of that.",
    "\\boxed{{{w}}} and \\boxed{{{a}}}",
    "\\boxed{{\\text{{{a}}}}}",
    "{a} or {w}",
    "The answer is {a} or {w}.",
    "${a}$",
    "#### {a}",
    "\\boxed{{{a}}}.",
    "\\boxed{{{a} apples}}",
    "First {w}, then {a}",
    "\\boxed{{}}",
    "",
    "I do not know.",
    "The final answer is \\( {a} \\).",
    "= {a}",
    "</think>\n\\boxed{{{a}}}",
    "\\boxed{{({a})}}",
)


def sha256_of_json(value: object) -> str:
    """The sha256 of a value, written as JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def wrong_answer(rng: random.Random, problem: Problem) -> str:
    """An answer that the problem does not have."""
    if problem.choices:
        return rng.choice([choice for choice in problem.choices if choice != problem.answer])
    return str(int(problem.answer) + rng.choice((1, 2, 10)))


def graded_rows() -> Iterator[dict[str, object]]:
    """Texts of many forms on committed problems, with the verdict of the grader."""
    rng = random.Random(1)
    problems = [problem for name in BENCHMARKS for problem in build_first_test(name)]

    for number in range(GRADES):
        problem = problems[number * 7 % len(problems)]
        form = FORMS[number % len(FORMS)]
        text = form.format(a=problem.answer, w=wrong_answer(rng, problem))
        finish = "length" if rng.random() < 0.15 else "stop"

        verdict = grade(problem, Completion(problem.id, text, 0, 0, 0, finish))
        yield {
            "id": problem.id,
            "text": text,
            "finish": finish,
            "verdict": verdict.verdict,
            "extracted": verdict.extracted,
            "boxed": verdict.boxed,
        }


def checksums() -> dict[str, str]:
    """Of every split, and of the train problems that are made on the spot."""
    found = {}
    for name in BENCHMARKS:
        for split in SPLITS:
            found[f"{name} {split}"] = sha256_of_json([fields_of(problem) for problem in load(name, split).problems])
        larger = load(name, "train", 3000).problems
        found[f"{name} train, 3000"] = sha256_of_json([fields_of(problem) for problem in larger])
    return found


def fields_of(problem: Problem) -> list[object]:
    """All that a problem says."""
    choices = list(problem.choices or ())
    return [problem.id, problem.question, problem.answer, problem.kind, choices, problem.family, problem.level]


def prompt_rows() -> Iterator[dict[str, object]]:
    """The chats that ask test problems, with and without worked examples."""
    tests = {name: build_first_test(name) for name in BENCHMARKS}

    # Problems whose answer is a number were shown arithmetic, all others logic.
    examples = {True: load("arithmetic_v1", "train").problems, False: load("logic_v1", "train").problems}

    for prompt in ("plain", "cot", "think"):
        for shots in (0, 4):
            for number in range(PROMPTS):
                name = BENCHMARKS[number % 2]
                problem = tests[name][number]
                chat = build_messages(problem, prompt, examples[problem.kind == "number"][:shots])
                yield {"id": problem.id, "prompt": prompt, "shots": shots, "sha256": sha256_of_json(chat)}


def solution_rows() -> Iterator[dict[str, object]]:
    """The solutions of train problems, in every style."""
    for style in ("short", "long", "prose"):
        for name in BENCHMARKS:
            for problem in load(name, "train").problems[: SOLUTIONS // 2]:
                yield {"id": problem.id, "style": style, "text": render_solution(problem, style)}


def write_jsonl(path: Path, rows: Iterator[dict[str, object]]) -> None:
    """Write rows, a JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """Write all golden files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "grades.jsonl", graded_rows())
    write_jsonl(folder / "prompts.jsonl", prompt_rows())
    write_jsonl(folder / "solutions.jsonl", solution_rows())
    (folder / "checksums.json").write_text(json.dumps(checksums(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
