"""Prompts are byte for byte what models were trained and scored with."""

import hashlib
import json

import pytest

from data.datasets import load
from data.problem import Problem
from pipeline import prompts
from pipeline.prompts import CustomPrompt, build_messages, prompt_sha256, render_prompt

PROBLEM = Problem("p", "What is 2 + 2?", "4", "number")
EXAMPLE = Problem("e", "What is 1 + 1?", "2", "number", rationale="1 + 1 = 2")


def read_golden_rows(root):
    lines = (root / "tests" / "golden" / "prompts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_prompts_are_the_golden_ones(root):
    problems = {}
    worked_examples = {}
    for name in ("arithmetic_v1", "logic_v1"):
        problems |= {problem.id: problem for problem in load(name, "test").problems}
        worked_examples[name] = load(name, "train").problems[:4]

    rows = read_golden_rows(root)
    assert len(rows) == 1200

    for row in rows:
        problem = problems[row["id"]]
        name = "arithmetic_v1" if problem.kind == "number" else "logic_v1"
        messages = build_messages(problem, row["prompt"], worked_examples[name][: row["shots"]])

        text = json.dumps(messages, ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == row["sha256"], row


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("plain", "\\boxed{2}"),
        ("cot", "1 + 1 = 2\n\\boxed{2}"),
        ("think", "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}"),
    ],
)
def test_examples_are_earlier_turns_that_answer_as_the_prompt_asks(prompt, answer):
    messages = build_messages(PROBLEM, prompt, [EXAMPLE])

    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in messages[1:]] == [EXAMPLE.question, answer, PROBLEM.question]


def test_a_prompt_of_ones_own_has_its_instruction_and_the_answers_of_its_format():
    own = CustomPrompt("Solve it.", "cot")
    system, _, example_answer, _ = build_messages(PROBLEM, own, [EXAMPLE])

    assert system["content"] == "Solve it."
    assert example_answer["content"] == "1 + 1 = 2\n\\boxed{2}"


def test_a_template_without_a_system_role_gets_the_instruction_in_the_first_turn(tiny):
    _, tokenizer = tiny
    template = tokenizer.chat_template
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"

    tokenizer.chat_template = refusal + template
    try:
        text = render_prompt(tokenizer, build_messages(PROBLEM, "think"))
    finally:
        tokenizer.chat_template = template

    assert f"{prompts.INSTRUCTIONS['think']}\n\n{PROBLEM.question}" in text


def test_the_sha256_changes_with_the_instruction_and_the_examples():
    hashes = {
        prompt_sha256("plain"),
        prompt_sha256("cot"),
        prompt_sha256("cot", [EXAMPLE]),
        prompt_sha256(CustomPrompt("Solve it.", "cot")),
    }
    assert len(hashes) == 4
