"""Prompts are byte for byte what models were trained and scored with."""

import copy
import hashlib
import json

import pytest

from data.datasets import load
from data.files import UserError, write_jsonl
from data.generated import build_first_test
from data.problem import Completion, Problem, read_problems
from eval.grade import grade
from pipeline import prompts
from pipeline.evaluate import evaluate
from pipeline.prompts import (
    BEGUN_TEMPLATE,
    PLAIN_TEMPLATE,
    CustomPrompt,
    build_messages,
    encode_forced_opening,
    encode_prompt,
    find_end_of_turn,
    format_direct_answer,
    format_question,
    prompt_sha256,
    render_prompt,
)
from pipeline.thinking_budget import ThinkingLimits
from pipeline.training import build_row

PROBLEM = Problem("p", "What is 2 + 2?", "4", "number")
EXAMPLE = Problem("e", "What is 1 + 1?", "2", "number", rationale="1 + 1 = 2")


def read_golden_rows(root):
    lines = (root / "tests" / "golden" / "prompts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_prompts_are_the_golden_ones(root):
    problems = {}
    worked_examples = {}
    for name in ("arithmetic_v1", "logic_v1"):
        problems |= {problem.id: problem for problem in build_first_test(name)}
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


# Templates

TURN = "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
TURNS = "{% for m in messages %}" + TURN + "{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
PARTS = "{% for m in messages %}<|{{ m['role'] }}|>{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
REFUSE = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DROP = "{% for m in messages if m['role'] != 'system' %}" + TURN + "{% endfor %}"
DROP_PARTS = PARTS.replace("in messages", "in messages if m['role'] != 'system'")
INSTRUCT = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] }}</s>{% else %}[{{ m['content'] }}]{% endif %}"
    "{% endfor %}"
)
OPEN_THINK = "{% if m['role'] == 'assistant' %}<think>{% endif %}{{ m['content'] }}"

TWO_TURNS = f"<|system|>{prompts.INSTRUCTIONS['think']}<|end|><|user|>{PROBLEM.question}<|end|><|assistant|>"
ONE_TURN = f"<|user|>{prompts.INSTRUCTIONS['think']}\n\n{PROBLEM.question}<|end|><|assistant|>"


@pytest.fixture
def use_template(tiny):
    """The function that returns the tiny tokenizer with a chat template."""

    def use(template):
        tokenizer = copy.deepcopy(tiny[1])
        tokenizer.chat_template = template
        return tokenizer

    return use


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TURNS + PROMPT, TWO_TURNS),
        (REFUSE + TURNS + PROMPT, ONE_TURN),
        (DROP + PROMPT, ONE_TURN),
        (PARTS + PROMPT, TWO_TURNS.replace("<|end|>", "")),
        (REFUSE + PARTS + PROMPT, ONE_TURN.replace("<|end|>", "")),
        (DROP_PARTS + PROMPT, ONE_TURN.replace("<|end|>", "")),
        # Without a generation prompt: what an assistant's turn begins with, where that is more than a space.
        (TURNS, TWO_TURNS),
        (DROP, ONE_TURN),
        (PARTS, TWO_TURNS.replace("<|end|>", "")),
        (INSTRUCT, f"[{prompts.INSTRUCTIONS['think']}][{PROBLEM.question}]"),
        # The thought is opened by the completion.
        (TURNS + PROMPT.replace("{% endif %}", "<think>\n{% endif %}"), TWO_TURNS),
        (TURNS.replace("{{ m['content'] }}", OPEN_THINK), TWO_TURNS),
    ],
)
def test_any_template_is_given_instruction_and_question_once(use_template, template, expected):
    assert render_prompt(use_template(template), build_messages(PROBLEM, "think"), "think") == expected


def test_examples_come_between_an_instruction_without_a_role_and_the_question(use_template):
    text = render_prompt(use_template(DROP + PROMPT), build_messages(PROBLEM, "plain", [EXAMPLE]), "plain")
    assert text == (
        f"<|user|>{prompts.INSTRUCTIONS['plain']}\n\n{EXAMPLE.question}<|end|><|assistant|>\\boxed{{2}}<|end|>"
        f"<|user|>{PROBLEM.question}<|end|><|assistant|>"
    )


def test_a_template_that_can_leave_out_the_thought_does_so_in_the_first_two_stages(use_template):
    # As Qwen3 has it; others open the thought where this one is silent.
    switch = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    silent = use_template(TURNS + PROMPT.replace("{% endif %}", switch + "{% endif %}"))
    opened = use_template(
        TURNS
        + PROMPT.replace("{% endif %}", switch.replace("{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}"))
    )

    own = CustomPrompt("Answer.", "plain")
    for tokenizer in (silent, opened):
        for prompt in ("plain", "cot", own):
            text = tokenizer.decode(encode_prompt(tokenizer, PROBLEM, prompt))
            assert text.endswith("<|assistant|><think>\n\n</think>\n\n")
            assert encode_forced_opening(tokenizer, prompt) == []

        assert tokenizer.decode(encode_prompt(tokenizer, PROBLEM, "think")).endswith("<|assistant|>")

    assert encode_forced_opening(silent) == []
    assert opened.decode(encode_forced_opening(opened)) == "<think>"


def test_a_thought_is_not_forced_where_the_template_has_closed_it(tiny, use_template):
    switch = "{% if not enable_thinking %}<think></think>{% else %}<think>\n{% endif %}"
    tokenizer = use_template(TURNS + PROMPT.replace("{% endif %}", switch + "{% endif %}"))
    for prompt, begins in (("plain", False), ("think", True)):
        [completion] = evaluate(
            tiny[0], tokenizer, [PROBLEM], prompt, max_new_tokens=4, batch_size=1, label="test"
        ).completions
        assert completion.text.startswith("<think>") == begins


def test_the_end_of_a_turn_is_the_templates_too(use_template):
    tokenizer = use_template(TURNS)
    assert find_end_of_turn(tokenizer) == tokenizer.eos_token_id
    parts = use_template(PARTS.replace("{% endfor %}{% endfor %}", "{% endfor %}<|end|>{% endfor %}"))
    assert find_end_of_turn(parts) == tokenizer.eos_token_id

    # A base with the template of its chat model.
    tokenizer = use_template(TURNS.replace("<|end|>", "<|im_end|>\n"))
    assert find_end_of_turn(tokenizer) is None
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    assert find_end_of_turn(tokenizer) == len(tokenizer) - 1

    # Nothing, or a text that may stand in an answer.
    assert find_end_of_turn(use_template(TURNS.replace("<|end|>", ""))) is None
    assert find_end_of_turn(use_template(TURNS.replace("<|end|>", "\n"))) is None
    assert find_end_of_turn(use_template("{{ raise_exception('never') }}")) is None


def test_an_answer_stands_on_a_line_of_its_own_in_our_template(use_template):
    tokenizer = use_template(PLAIN_TEMPLATE)
    text = render_prompt(tokenizer, build_messages(PROBLEM, "plain", [EXAMPLE]), "plain")
    assert text.count("Answer:\n") == 2
    assert text.endswith("\nAnswer:\n")

    begun = use_template(BEGUN_TEMPLATE)
    begun.bos_token = "<|user|>"
    assert render_prompt(begun, build_messages(PROBLEM, "plain", [EXAMPLE]), "plain") == f"<|user|>{text}"


@pytest.mark.parametrize("template", ["Assistant:", "{{ raise_exception('never') }}", "{{ 1 + messages }}"])
def test_a_template_that_loses_the_question_is_refused(use_template, template):
    with pytest.raises(UserError, match="chat template leaves out the instruction or the question") as caught:
        render_prompt(use_template(template), build_messages(PROBLEM, "think"), "think")
    assert "\n" not in str(caught.value)


@pytest.fixture
def opening(use_template):
    """The tiny tokenizer with a template that opens the thought itself."""
    return use_template(TURNS + PROMPT.replace("{% endif %}", "<think>\n{% endif %}"))


def test_a_thought_that_the_template_opens_stands_once_in_a_training_row(opening):
    for text in ("<think>\n2 + 2 = 4\n</think>\n\\boxed{4}", "<think></think>\n\\boxed{4}"):
        row = build_row(opening, PROBLEM, text, "think")
        assert opening.decode(row["input_ids"]) == f"{TWO_TURNS}{text}<|end|>"


@pytest.mark.parametrize("limits", [None, ThinkingLimits(0, 0), ThinkingLimits(0, 5), ThinkingLimits(4, 9)])
def test_a_thought_that_the_template_opens_is_counted_and_limited(tiny, opening, limits):
    [completion] = evaluate(
        tiny[0], opening, [PROBLEM], "cot", max_new_tokens=24, batch_size=1, thinking=limits, label="test"
    ).completions

    assert completion.text.startswith("<think>")
    assert completion.text.count("<think>") == 1
    assert completion.thinking_tokens + completion.answer_tokens <= 24
    # An untrained model does not close it by itself.
    expected = 23 if limits is None else limits.max_tokens
    assert completion.thinking_tokens == expected


def test_a_beginning_of_ones_own_takes_the_place_of_the_opening(tiny, opening):
    [completion] = evaluate(
        tiny[0], opening, [PROBLEM], "think", max_new_tokens=8, batch_size=1, prefix=prompts.DIRECT, label="test"
    ).completions
    assert completion.text.startswith(prompts.DIRECT)


# Choices

ARC = [
    ("a", "Which gas do plants take in?", ["oxygen", "carbon dioxide", "helium"], "B"),
    ("b", "How many legs has a spider?", ["6", "8", "10", "12"], "8"),
    ("c", "Is ice lighter than water?", ["yes", "no"], "yes"),
    ("d", "Which grade is best?", ["A", "B"], "A"),
    ("e", "Is it bigger: cat, Ant or dog-fish?", ["Cat", "ant", "dog-fish"], "ant"),
    ("f", "Is concatenation slow?", ["cat", "ant"], "cat"),
]
SHOWN = {
    "a": "\nA. oxygen\nB. carbon dioxide\nC. helium",
    "b": "\nA. 6\nB. 8\nC. 10\nD. 12",
    "c": "",
    "d": "\nChoices: A, B",
    "e": "",
    "f": "\nA. cat\nB. ant",
}


@pytest.fixture
def arc(tmp_path):
    """Problems with choices, as a file holds them."""
    rows = [dict(zip(("id", "question", "choices", "answer"), values, strict=True)) for values in ARC]
    write_jsonl(tmp_path / "arc.jsonl", rows)
    return read_problems(tmp_path / "arc.jsonl")


def test_choices_stand_in_prompts_examples_and_rows_unless_the_question_names_them(tiny, arc):
    for problem in arc:
        asked = problem.question + SHOWN[problem.id]

        for prompt in ("plain", "cot", "think"):
            _, example, _, question = build_messages(problem, prompt, [problem])
            assert question["content"] == example["content"] == asked

        row = build_row(tiny[1], problem, format_direct_answer(problem.answer), "think")
        assert f"{asked}<|" in tiny[1].decode(row["input_ids"])


def test_a_letter_means_to_the_grader_what_the_prompt_shows(arc):
    for problem in arc:
        for line in format_question(problem).removeprefix(problem.question).split("\n"):
            letter, mark, text = line.partition(". ")
            if not mark:
                continue

            for answer in (letter, text, line, f"({letter})"):
                completion = Completion(problem.id, f"\\boxed{{{answer}}}", 0, 0, 0, "stop")
                assert grade(problem, completion).correct == (text == problem.answer), answer


def test_choices_beyond_the_alphabet_have_no_letters():
    choices = tuple(f"x{i}" for i in range(27))
    shown = format_question(Problem("p", "Which?", "x3", "text", choices))
    assert shown == f"Which?\nChoices: {', '.join(choices)}"


def test_questions_of_our_own_sets_stay_as_they_are():
    for split in ("train", "dev", "test"):
        for problem in load("logic_v1", split).problems:
            assert format_question(problem) == problem.question


def test_the_sha256_changes_with_the_instruction_and_the_examples():
    hashes = {
        prompt_sha256("plain"),
        prompt_sha256("cot"),
        prompt_sha256("cot", [EXAMPLE]),
        prompt_sha256(CustomPrompt("Solve it.", "cot")),
    }
    assert len(hashes) == 4
