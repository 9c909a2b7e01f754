"""Error kinds: each one on a text that has it, and none on a right answer or on any worked trace of ours."""

from dataclasses import replace

import pytest

from data.build import load
from data.records import Completion, Problem, write_records
from eval.errors import kind_of, main, steps, wrong_step
from eval.grade import grade

SUM = Problem("s", "What is 25 * 4 + 8?", "108", "number", extra={"program": [["*", 25, 4, 100], ["+", 100, 8, 108]]})
RULES = Problem(
    "r",
    "Tom is a cat. No dogs are red. Every cat is red. Is it true that Tom is red?",
    "yes",
    "label",
    ("yes", "no"),
    "rules",
    rationale="Tom is a cat.",
)
ORDER = Problem(
    "o",
    "Ann is older than Bob. Ann is younger than Eve. Who is the oldest?",
    "Eve",
    "text",
    ("Ann", "Bob", "Eve"),
    "ordering",
)
BOOLEAN = Problem("b", "What is not (True and False)?", "True", "label", ("True", "False"), "boolean")


def thought(steps: str, answer: str) -> str:
    return f"<think>\n{steps}\n</think>\n\\boxed{{{answer}}}"


@pytest.mark.parametrize(
    ("problem", "text", "finish", "kind"),
    [
        (SUM, thought("25 * 4 = 100\n100 + 8 = 108", "108"), "stop", None),
        (SUM, thought("25 * 4 = 90\n90 + 8 = 98", "98"), "stop", "slip"),
        (SUM, thought("25 + 4 = 29\n29 + 8 = 37", "37"), "stop", "plan"),
        (SUM, thought("25 * 4 = 100\n100 + 8 = 108", "107"), "stop", "contradiction"),
        (SUM, "<think>\n25 * 4 = 100\n100 + 8 = 108\n</think>\nSo that is it.", "stop", "format"),
        (SUM, "<think></think>\n\\boxed{33}", "stop", "guess"),
        (SUM, "<think>\n25 * 4 = 100", "stop", "unclosed"),
        (SUM, "<think>\n25 * 4 = 100\n100 +", "length", "truncated"),
        (SUM, "<think>\n" + "25 * 4 = 100\n" * 5, "length", "loop"),
        (SUM, "<think></think>\nHm.", "stop", "no attempt"),
        (SUM, thought("That is easy.", "33"), "stop", "unknown"),
        (
            replace(SUM, extra={}),
            thought("25 + 4 = 29", "29"),
            "stop",
            "unknown",
        ),  # without a program, no plan to judge
        (RULES, thought("Tom is a dog.\nEvery cat is red.\nSo Tom is not red.", "no"), "stop", "unfounded"),
        (RULES, thought("Tom is a cat.\nEvery cat is red.\nSo Tom is not red.", "no"), "stop", "unfounded"),
        (RULES, thought("Tom is a cat.\nNo dogs are red.\nSo Tom is not red.", "no"), "stop", "unfounded"),
        (RULES, thought("Tom is a cat.\nEvery cat is red.\nSo Tom is red.", "no"), "stop", "contradiction"),
        (ORDER, thought("Oldest to youngest: Ann > Bob > Eve\nOldest: Ann", "Ann"), "stop", "unfounded"),
        (ORDER, thought("Oldest to youngest: Eve > Bob\nOldest: Bob", "Bob"), "stop", "unfounded"),
        (ORDER, thought("Oldest to youngest: Eve > Ann > Bob\nOldest: Ann", "Ann"), "stop", "unknown"),
        (BOOLEAN, thought("True and False = True\nnot True = False", "False"), "stop", "slip"),
        (BOOLEAN, thought("True or False = True\nnot True = False", "False"), "stop", "plan"),
    ],
)
def test_each_kind_of_error(problem, text, finish, kind):
    completion = Completion(problem.id, text, 0, 0, 0, finish)
    assert kind_of(problem, completion, grade(problem, completion)) == kind


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2 + 3 * 4 = 14", [True]),
        ("2 + 3 * 4 = 20", [False]),
        ("10 - 4 - 3 = 3, then 3 / 2 = 1.5", [True, True]),
        ("$1,200 + $34 = $1,234", [True]),
        ("7 / 0 = 7", [False]),
        ("not False = True", [True]),
        ("x + 3 = 4 and 5 = 5", []),
        ("a * 3 + 4 = 10", []),
        ("(2 + 3) * 4 = 20", []),
        ("9" * 400 + " * 9 = 1", []),
    ],
)
def test_steps_are_worked_out_again(text, right):
    assert [ok for *_, ok in steps(text)] == right


@pytest.mark.parametrize("benchmark", ["arithmetic_v1", "logic_v1"])
def test_no_worked_trace_of_ours_has_a_wrong_step(benchmark):
    problems = load(benchmark, "dev")
    assert [p.id for p in problems if wrong_step(p, p.rationale)] == []
    if benchmark == "arithmetic_v1":
        assert all(len(steps(p.rationale)) == p.rationale.count("\n") + 1 for p in problems)


def test_the_command_counts_each_file(tmp_path, capsys):
    write_records(tmp_path / "problems.jsonl", [SUM])
    for stage, text in {
        "sft": thought("25 * 4 = 90\n90 + 18 = 108", "108"),
        "rl": thought("25 + 4 = 29", "29"),
    }.items():
        write_records(tmp_path / stage / "completions" / "sums.jsonl", [Completion("s", text, 0, 0, 0, "stop")])
    command = ["--benchmark", str(tmp_path / "problems.jsonl"), "--examples", "1"]
    command += ["--completions", *(str(tmp_path / s / "completions" / "sums.jsonl") for s in ("sft", "rl"))]
    assert main(command) == 0
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.split("\n\n")[0].splitlines()]
    assert table == [
        ["sft", "rl"],
        ["n", "1", "1"],
        ["right", "100.0", "0.0"],
        ["through", "a", "wrong", "step", "100.0", "0.0"],
        ["plan", "0.0", "100.0"],
    ]
    assert "rl, plan: What is 25 * 4 + 8?" in printed
    other = tmp_path / "other" / "sft" / "completions" / "sums.jsonl"  # the same stage of another run
    write_records(other, [Completion("s", "", 0, 0, 0, "stop")])
    assert main([*command, str(other)]) == 0
    printed = capsys.readouterr().out
    assert str(other) in printed and str(tmp_path / "sft" / "completions") in printed
    other = replace(SUM, id="t")
    write_records(tmp_path / "problems.jsonl", [other])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "'s' is no problem of" in error and error.count("\n") == 1
