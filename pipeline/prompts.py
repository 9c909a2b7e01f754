"""From a problem to the token ids that a model is asked with: the same for training, rollouts and scoring.

There are three prompts, written in the base's own chat template (or in ours where it has none):

- ``plain`` asks for a direct answer;
- ``cot`` asks for steps first (Kojima et al. 2022, arXiv 2205.11916; with worked examples: Wei et al. 2022,
  arXiv 2201.11903);
- ``think`` is what the trained stages are asked with.

This module reads no file: few-shot examples are passed in.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from data.files import UserError
from data.problem import Problem
from eval.choices import OPPOSITES, list_letters

THINK = "<think>"
END_THINK = "</think>"

# What a completion begins with where it answers without thinking.
DIRECT = f"{THINK}{END_THINK}\n"

# How a chat template ends that opens the thought itself.
OPENED = re.compile(rf"{THINK}\s*$")

# The instruction takes the place of a template's default system prompt, which would cost tokens and say nothing.
INSTRUCTIONS = {
    "plain": "Answer with \\boxed{answer} and nothing else.",
    "cot": "Think step by step, then end with the answer as \\boxed{answer}.",
    "think": "Think, then answer.",
}

# For a base model without a chat template. Its end of turn is the tokenizer's own end-of-text token. An answer stands
# on a line of its own: after a space its first token would be another one than in the examples.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'user' %}Question: {{ m['content'] }}\n"
    "{% else %}Answer:\n{{ m['content'] }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer:\n{% endif %}"
)

# The same where the model read each text after a token that begins it, without which some write nonsense.
BEGUN_TEMPLATE = "{{ bos_token }}" + PLAIN_TEMPLATE
OUR_TEMPLATES = (PLAIN_TEMPLATE, BEGUN_TEMPLATE)


@dataclass(frozen=True)
class CustomPrompt:
    """An instruction of the user's own; ``format`` (plain, cot, think) says how few-shot examples answer."""

    instruction: str
    format: str


Prompt = str | CustomPrompt


def has_think_tags(steps: str) -> bool:
    """Whether steps have tags of their own, which would be learnt as a part of the thought."""
    return THINK in steps or END_THINK in steps


def format_thinking_answer(steps: str, answer: str) -> str:
    """Return a completion that thinks first; ``steps`` holds one step a line."""
    return f"{THINK}\n{steps}\n{END_THINK}\n\\boxed{{{answer}}}"


def format_direct_answer(answer: str) -> str:
    """Return a completion that answers without thinking."""
    return f"{DIRECT}\\boxed{{{answer}}}"


def format_example_answer(problem: Problem, style: str) -> str:
    """Return how a few-shot example answers under the prompt named ``style``."""
    if style == "plain":
        return f"\\boxed{{{problem.answer}}}"

    if style == "cot":
        return f"{problem.rationale}\n\\boxed{{{problem.answer}}}"

    return format_thinking_answer(problem.rationale or "", problem.answer)


def resolve_prompt(prompt: Prompt) -> CustomPrompt:
    """Return the instruction and the format of a prompt given by its name or as itself."""
    if isinstance(prompt, CustomPrompt):
        return prompt

    return CustomPrompt(INSTRUCTIONS[prompt], prompt)


def format_question(problem: Problem) -> str:
    """Return the question, with the choices under it unless it names them all, or they are a usual pair of labels."""
    choices = problem.choices or ()
    is_usual = {choice.casefold() for choice in choices} in OPPOSITES
    if is_usual or all(_names_choice(problem.question, choice) for choice in choices):
        return problem.question

    # The letters that the grader takes; some choices cannot have any.
    letters = list_letters(problem.kind, choices)
    if not letters:
        return f"{problem.question}\nChoices: {', '.join(choices)}"

    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return "\n".join([problem.question, *lines])


def _names_choice(question: str, choice: str) -> bool:
    """Whether a text stands in a question as a word or words of its own."""
    word = re.escape(choice.strip().casefold())
    # Not by \b, which finds no border beside a choice that begins or ends with a sign.
    return re.search(rf"(?<!\w){word}(?!\w)", question.casefold()) is not None


def build_messages(
    problem: Problem,
    prompt: Prompt,
    examples: Sequence[Problem] = (),
) -> list[dict[str, str]]:
    """Return the chat that asks ``problem``, with the examples as earlier turns."""
    asked = resolve_prompt(prompt)

    # A template that has no system role is dealt with where it is applied.
    messages = [{"role": "system", "content": asked.instruction}]

    for example in examples:
        answer = format_example_answer(example, asked.format)
        messages.append({"role": "user", "content": format_question(example)})
        messages.append({"role": "assistant", "content": answer})

    messages.append({"role": "user", "content": format_question(problem)})
    return messages


def prompt_sha256(prompt: Prompt, examples: Sequence[Problem] = ()) -> str:
    """Return the sha256 of all that stands before a question."""
    # The question itself is no part of it: benchmarks have hashes of their own.
    empty = Problem("-", "-", "-", "text")
    messages = build_messages(empty, prompt, examples)
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()


def render_prompt(tokenizer, messages: list[dict[str, str]], prompt: Prompt) -> str:
    """Return the chat as text, up to where the assistant begins.

    A thought that the template opens itself is left out: it belongs to the completion (:func:`encode_forced_opening`).

    Args:
        tokenizer: The base's.
        messages: What :func:`build_messages` makes of the prompt, perhaps with further turns.
        prompt: Whether there is to be a thought: some templates ask for one, or write an empty one.

    Raises:
        UserError: the template writes no prompt with the instruction and the question in it.
    """
    return OPENED.sub("", _render_whole(tokenizer, messages, prompt))


def encode_forced_opening(tokenizer, prompt: Prompt = "think") -> list[int]:
    """Return the ids that every completion must begin with: the opening tag where the template opens the thought.

    So its tokens are counted and limited like any other thought, and a training row holds the tag once.
    """
    messages = build_messages(Problem("-", "-", "-", "text"), prompt)
    is_opened = OPENED.search(_render_whole(tokenizer, messages, prompt))
    return encode_text(tokenizer, THINK) if is_opened else []


def find_end_of_turn(tokenizer) -> int | None:
    """Return the special token that the chat template writes after an answer; None where it is no such token.

    It may be another than the tokenizer's own end, as in some base models with the template of their chat model.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    answer = "The answer"
    chat = [{"role": "user", "content": "The question"}, {"role": "assistant", "content": answer}]
    for each in (chat, _split_into_parts(chat)):
        text = _apply_template(tokenizer, each, add_generation_prompt=False)
        _, found, rest = text.rpartition(answer)
        ids = encode_text(tokenizer, rest.lstrip()) if found else []
        if ids and ids[0] in special:
            return ids[0]
    return None


def _render_whole(tokenizer, messages: list[dict[str, str]], prompt: Prompt) -> str:
    """The chat as the template writes it, in the first of four forms that keeps what is asked."""
    # A model that can think or not is asked for steps in its answer by "cot", not for a thought before it.
    is_thinking = resolve_prompt(prompt).format == "think"
    system, first, *rest = messages
    kept = [system["content"].strip(), messages[-1]["content"].strip()]

    # A template without a system role gets the instruction in the first turn.
    merged = [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]

    # Texts first: some templates write out a list of parts as Python would.
    for chat in (messages, merged, _split_into_parts(messages), _split_into_parts(merged)):
        text = _apply_template(tokenizer, chat, add_generation_prompt=True, enable_thinking=is_thinking)
        if all(part in text for part in kept):
            return text + _find_missing_opening(tokenizer, chat, text, is_thinking)

    raise UserError(
        "the base's chat template leaves out the instruction or the question, whichever way they are given; "
        "fix chat_template, or take another base"
    )


def _split_into_parts(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The chat with each content as a list of parts, as templates of models for text and images may need it."""
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _apply_template(
    tokenizer,
    chat: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    enable_thinking: bool = True,
) -> str:
    """The chat as text; nothing where the template refuses it."""
    try:
        return tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=enable_thinking,
        )
    except (jinja2.TemplateError, TypeError):
        # By raise_exception in the template, or where it adds a list to a text.
        return ""


def _find_missing_opening(tokenizer, chat: list[dict[str, Any]], text: str, is_thinking: bool) -> str:
    """What begins the assistant's turn where the template has no generation prompt of its own.

    Some need none, since their assistant's turn begins with its content (Llama 2, Mistral).
    """
    if text != _apply_template(tokenizer, chat, add_generation_prompt=False, enable_thinking=is_thinking):
        return ""

    # Any answer will do; the last question has the right form.
    answered = [*chat, chat[-1] | {"role": "assistant"}]
    whole = _apply_template(tokenizer, answered, add_generation_prompt=False, enable_thinking=is_thinking)
    if not whole.startswith(text):
        return ""

    content = chat[-1]["content"]
    answer = content if isinstance(content, str) else content[0]["text"]
    opening = whole.removeprefix(text).partition(answer.strip())[0]
    return opening if opening.strip() else ""


def encode_text(tokenizer, text: str) -> list[int]:
    """Return the token ids of a text, with nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_prompt(
    tokenizer,
    problem: Problem,
    prompt: Prompt,
    examples: Sequence[Problem] = (),
) -> list[int]:
    """Return the token ids of the whole prompt; the arguments are those of :func:`build_messages`."""
    messages = build_messages(problem, prompt, examples)
    return encode_text(tokenizer, render_prompt(tokenizer, messages, prompt))
