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
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from data.problem import Problem

THINK = "<think>"
END_THINK = "</think>"

# What a completion begins with where it answers without thinking.
DIRECT = f"{THINK}{END_THINK}\n"

# The instruction takes the place of a template's default system prompt, which would cost tokens and say nothing.
INSTRUCTIONS = {
    "plain": "Answer with \\boxed{answer} and nothing else.",
    "cot": "Think step by step, then end with the answer as \\boxed{answer}.",
    "think": "Think, then answer.",
}

# For a base model without a chat template. Its end of turn is the tokenizer's own end-of-text token.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'user' %}Question: {{ m['content'] }}\n"
    "{% else %}Answer: {{ m['content'] }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer: {% endif %}"
)


@dataclass(frozen=True)
class CustomPrompt:
    """An instruction of the user's own; ``format`` (plain, cot, think) says how few-shot examples answer."""

    instruction: str
    format: str


Prompt = str | CustomPrompt


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


def build_messages(problem: Problem, prompt: Prompt, examples: Sequence[Problem] = ()) -> list[dict[str, str]]:
    """Return the chat that asks ``problem``, with the examples as earlier turns."""
    asked = resolve_prompt(prompt)
    messages = [{"role": "system", "content": asked.instruction}]

    for example in examples:
        answer = format_example_answer(example, asked.format)
        messages.append({"role": "user", "content": example.question})
        messages.append({"role": "assistant", "content": answer})

    messages.append({"role": "user", "content": problem.question})
    return messages


def prompt_sha256(prompt: Prompt, examples: Sequence[Problem] = ()) -> str:
    """Return the sha256 of all that stands before a question."""
    empty = Problem("-", "-", "-", "text")
    messages = build_messages(empty, prompt, examples)
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()


def render_prompt(tokenizer, messages: list[dict[str, str]]) -> str:
    """Return the chat as text, up to where the assistant begins."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError:
        # A template without a system role gets the instruction in the first turn.
        system, first, *rest = messages
        content = f"{system['content']}\n\n{first['content']}"
        merged = [{"role": "user", "content": content}, *rest]
        return tokenizer.apply_chat_template(merged, tokenize=False, add_generation_prompt=True)


def encode_text(tokenizer, text: str) -> list[int]:
    """Return the token ids of a text, with nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_prompt(tokenizer, problem: Problem, prompt: Prompt, examples: Sequence[Problem] = ()) -> list[int]:
    """Return the token ids of the whole prompt; the arguments are those of :func:`build_messages`."""
    messages = build_messages(problem, prompt, examples)
    return encode_text(tokenizer, render_prompt(tokenizer, messages))
