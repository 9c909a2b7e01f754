"""Kinds of error: each one on a text that has it, and none on a correct answer."""

import json
from dataclasses import replace

import pytest

from data.problem import Completion, Problem, write_records
from eval.errors import KINDS, GradedCompletion, format_wrong_steps, main
from eval.grade import grade

SUM = Problem("s", "What is 25 * 4 + 8?", "108", "number", extra={"program": [["*", 25, 4, 100], ["+", 100, 8, 108]]})
BOOLEAN = Problem("b", "What is not (True and False)?", "True", "label", ("True", "False"), "boolean")
RULES = Problem(
    "r",
    "Tom is a cat. No dogs are red. Every cat is red. Is it true that Tom is red?",
    "yes",
    "label",
    ("yes", "no"),
    "rules",
)
ORDER = Problem(
    "o",
    "Ann is older than Bob. Ann is younger than Eve. Who is the oldest?",
    "Eve",
    "text",
    ("Ann", "Bob", "Eve"),
    "ordering",
)


def write_answer(steps: str, answer: str) -> str:
    return f"<think>\n{steps}\n</think>\n\\boxed{{{answer}}}"


@pytest.mark.parametrize(
    ("problem", "text", "kind"),
    [
        (SUM, write_answer("25 * 4 = 100\n100 + 8 = 108", "108"), None),
        (SUM, write_answer("25 * 4 = 90\n90 + 8 = 98", "98"), "slip"),
        (SUM, write_answer("25 + 4 = 29\n29 + 8 = 37", "37"), "plan"),
        (SUM, write_answer("25 * 4 = 100\n100 + 8 = 108", "107"), "contradiction"),
        (SUM, "<think></think>\n25 * 4 = 90\n\\boxed{98}", "slip"),
        (SUM, "<think>\n\n</think>\n25 * 4 = 90\n\\boxed{98}", "slip"),
        (SUM, "<think></think>\n25 * 4 = 100\n100 + 8 = 108\n\\boxed{107}", "contradiction"),
        # The plan was right; the answer was two.
        (SUM, write_answer("25 * 4 = 100\n100 + 8 = 108", "108") + " or 109", "unknown"),
        (SUM, "<think>\n25 * 4 = 100\n100 + 8 = 108\n</think>\nSo that is it.", "format"),
        (SUM, "<think></think>\n\\boxed{33}", "guess"),
        (SUM, "<think>\n25 * 4 = 100", "unclosed"),
        (SUM, "<think></think>\nHm.", "no attempt"),
        (SUM, write_answer("That is easy.", "33"), "unknown"),
        # Without a program there is no plan to judge.
        (replace(SUM, extra={}), write_answer("25 + 4 = 29", "29"), "unknown"),
        (RULES, write_answer("Tom is a dog.\nEvery cat is red.\nSo Tom is not red.", "no"), "unfounded"),
        (RULES, write_answer("Tom is a cat.\nEvery cat is red.\nSo Tom is not red.", "no"), "unfounded"),
        (RULES, write_answer("Tom is a cat.\nNo dogs are red.\nSo Tom is not red.", "no"), "unfounded"),
        (
            RULES,
            write_answer("Tom is a cat.\nEvery cat is red.\nSo Tom is red.\nAsked red, found red: yes.", "no"),
            "contradiction",
        ),
        (ORDER, write_answer("Who is the oldest: up.\nAnn is older than Bob: Bob > Ann", "Bob"), "unfounded"),
        (ORDER, write_answer("Oldest to youngest: Eve > Ann > Bob", "Ann"), "unknown"),
        (BOOLEAN, write_answer("True and False = True\nnot True = False", "False"), "slip"),
        (BOOLEAN, write_answer("True or False = True\nnot True = False", "False"), "unfounded"),
    ],
)
def test_each_kind_of_error(problem, text, kind):
    completion = Completion(problem.id, text, 0, 0, 0, "stop")

    assert GradedCompletion(problem, completion, grade(problem, completion)).kind == kind
    assert kind is None or kind in KINDS


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<think>\n25 * 4 = 100\n100 +", "truncated"),
        ("<think>\n" + "25 * 4 = 100\n" * 3, "truncated"),
        ("<think>\n" + "25 * 4 = 100\n" * 4, "loop"),
    ],
)
def test_a_truncated_text_is_a_loop_where_it_repeats_itself(text, kind):
    completion = Completion("s", text, 0, 0, 0, "length")

    assert GradedCompletion(SUM, completion, grade(SUM, completion)).kind == kind


@pytest.fixture
def files(tmp_path):
    """A benchmark of one problem, and the completions of two stages."""
    texts = {
        "sft": write_answer("25 * 4 = 90\n90 + 18 = 108", "108"),
        "rl": write_answer("25 + 4 = 29", "29"),
    }
    paths = [tmp_path / "problems.jsonl"]
    write_records(paths[0], [SUM])

    for stage, text in texts.items():
        paths.append(tmp_path / stage / "completions" / "sums.jsonl")
        write_records(paths[-1], [Completion("s", text, 0, 0, 0, "stop")])
    return [str(path) for path in paths]


def run_main(files, *more):
    benchmark, *completions = files
    return main(["--benchmark", benchmark, "--completions", *completions, *more])


def test_the_command_counts_each_file(files, capsys):
    assert run_main(files, "--examples", "1") == 0

    output = capsys.readouterr().out
    table = [line.split() for line in output.split("\n\n")[0].splitlines()]
    assert table == [
        ["sft", "rl"],
        ["n", "1", "1"],
        ["correct", "100.0", "0.0"],
        ["through", "a", "wrong", "step", "100.0", "0.0"],
        ["plan", "0.0", "100.0"],
    ]
    assert "rl, plan: What is 25 * 4 + 8?" in output


def test_half_a_character_is_printed_escaped(files, capsys):
    with open(files[0], "w") as file:
        file.write(json.dumps({"id": "s", "question": "What is \ud800?", "answer": 108, "kind": "number"}))

    assert run_main(files, "--examples", "1") == 0
    assert "What is \\ud800?" in capsys.readouterr().out


def test_the_same_stage_of_two_runs_is_named_by_its_path(files, tmp_path, capsys):
    other = tmp_path / "other" / "sft" / "completions" / "sums.jsonl"
    write_records(other, [Completion("s", "", 0, 0, 0, "stop")])

    assert run_main([*files, str(other)]) == 0
    output = capsys.readouterr().out
    assert str(other) in output
    assert str(tmp_path / "sft" / "completions") in output


def test_completions_of_another_benchmark_are_refused(files, capsys):
    write_records(files[0], [replace(SUM, id="t")])

    assert run_main(files) == 2
    error = capsys.readouterr().err
    assert "'s' is no problem of the benchmark" in error
    assert error.count("\n") == 1


def test_the_operation_that_goes_wrong_first_is_counted_by_family_and_level():
    texts = ["25 * 4 = 90\n90 + 9 = 99", "25 * 4 = 100\n100 + 8 = 107", "25 * 4 = 100\n100 + 8 = 108"]
    problem = replace(SUM, family="expression", level=3)
    completions = [Completion("s", write_answer(text, text[-3:].strip()), 0, 0, 0, "stop") for text in texts]
    graded = [GradedCompletion(problem, completion, grade(problem, completion)) for completion in completions]

    lines = [line.split() for line in format_wrong_steps([*graded, graded[1]]).splitlines()]
    assert lines == [
        ["first", "wrong", "step", "n", "correct", "*", "+"],
        ["expression", "3", "4", "25.0", "25.0", "50.0"],
    ]
