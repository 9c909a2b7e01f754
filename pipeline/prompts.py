"""From a problem to the token ids a model is asked with, the same for training, rollouts and scoring.

Three prompts, in the base's own chat template (or a plain one of ours where it has none):
``plain`` asks for the answer at once, ``cot`` asks for steps first (Kojima et al. 2022, arXiv 2205.11916; with
worked exemplars: Wei et al. 2022, arXiv 2201.11903), ``think`` is what the trained rungs are asked with.
"""

import hashlib
import json
from collections.abc import Sequence

import jinja2

from data.build import load
from data.records import Problem

# The instruction takes the place of a template's default system prompt, which would cost tokens and say nothing.
# The first wording is the one that trains and scores; the others show how much a score owes to it.
WORDINGS = {
    "plain": (
        "Answer with \\boxed{answer} and nothing else.",
        "Give only the answer, as \\boxed{answer}.",
        "Reply with \\boxed{answer} and no other words.",
        "Solve this. Write \\boxed{answer}, nothing more.",
        "Write just the final answer: \\boxed{answer}.",
    ),
    "cot": (
        "Think step by step, then end with the answer as \\boxed{answer}.",
        "Work it out step by step and finish with \\boxed{answer}.",
        "Show your reasoning one step at a time; the last line is \\boxed{answer}.",
        "Reason in small steps. Give the final answer as \\boxed{answer}.",
        "First explain each step, then write \\boxed{answer}.",
    ),
    "think": (
        "Think, then answer.",
        "Think first, then give the answer.",
        "Reason about it before you answer.",
        "Work it out, then answer.",
        "Answer after some thought.",
    ),
}
INSTRUCTIONS = {prompt: wordings[0] for prompt, wordings in WORDINGS.items()}

THINK, END_THINK = "<think>", "</think>"
DIRECT = f"{THINK}{END_THINK}\n"

# For a base model without a chat template; its end of turn is the tokenizer's own end-of-text token.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'user' %}Question: {{ m['content'] }}\n"
    "{% else %}Answer: {{ m['content'] }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer: {% endif %}"
)


def thinking_answer(steps: str, answer: str) -> str:
    """A completion that thinks first: ``steps`` is one step a line."""
    return f"{THINK}\n{steps}\n{END_THINK}\n\\boxed{{{answer}}}"


def direct_answer(answer: str) -> str:
    """A completion that answers at once."""
    return f"{DIRECT}\\boxed{{{answer}}}"


def exemplar_answer(problem: Problem, prompt: str) -> str:
    """How a few-shot exemplar answers under a prompt."""
    if prompt == "plain":
        return f"\\boxed{{{problem.answer}}}"
    if prompt == "cot":
        return f"{problem.rationale}\n\\boxed{{{problem.answer}}}"
    return thinking_answer(problem.rationale or "", problem.answer)


def exemplars(problem: Problem, shots: int) -> list[Problem]:
    """The worked train problems that stand before ``problem``: arithmetic for a number, else logic, easiest first."""
    return load("arithmetic_v1" if problem.kind == "number" else "logic_v1", "train")[:shots] if shots else []


def messages(
    problem: Problem,
    prompt: str,
    shots: Sequence[Problem] = (),
    wording: int = 0,
    after: Sequence[str] = (),
    at_most: int | None = None,
) -> list[dict[str, str]]:
    """The chat that asks ``problem``, the exemplars as earlier turns; ``after``: a first answer, and feedback on it;
    ``at_most``: the tokens of thought that are asked for (L1-Max, arXiv 2503.04697, section 3)."""
    told = "" if at_most is None else f" Think for at most {at_most} tokens."
    chat = [{"role": "system", "content": WORDINGS[prompt][wording] + told}]
    for shot in shots:
        chat.append({"role": "user", "content": shot.question})
        chat.append({"role": "assistant", "content": exemplar_answer(shot, prompt)})
    chat.append({"role": "user", "content": problem.question})
    if after:
        answer, feedback = after
        chat += [{"role": "assistant", "content": answer}, {"role": "user", "content": feedback}]
    return chat


def wording_hash(prompt: str, shots: int = 0) -> str:
    """The sha256 of all that stands before a question: of a number, and of any other kind."""
    asked = [Problem("-", "-", "-", kind) for kind in ("number", "text")]
    said = [messages(problem, prompt, exemplars(problem, shots)) for problem in asked]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def render(tokenizer, chat: list[dict[str, str]]) -> str:
    """The chat as text up to where the assistant begins; templates without a system role get it in the first turn."""
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError:
        system, first, *rest = chat
        merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
        return tokenizer.apply_chat_template([merged, *rest], tokenize=False, add_generation_prompt=True)


def encode(tokenizer, text: str) -> list[int]:
    """Token ids of a piece of text, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prompt_ids(
    tokenizer,
    problem: Problem,
    prompt: str,
    shots: Sequence[Problem] = (),
    wording: int = 0,
    after: Sequence[str] = (),
    at_most: int | None = None,
) -> list[int]:
    """The token ids of the whole prompt, of which the arguments are those of :func:`messages`."""
    return encode(tokenizer, render(tokenizer, messages(problem, prompt, shots, wording, after, at_most)))
