"""The states and the changed numbers of planning are at the right place."""

from types import SimpleNamespace

import numpy as np
import torch

from data.datasets import load
from pipeline.prompts import encode_prompt
from pipeline.studies import planning
from pipeline.studies.planning import TRAINED, compute_step_states, encode_start, measure, patch


def test_all_parts_run_on_any_base(settings, tiny_base):
    findings = measure(settings("planning", drawn=80, tested=6, levels=[2], max_new_tokens=4), tiny_base)
    assert findings.n == 6
    lines = {line.label: line for line in findings.lines}
    assert len(lines[f"{TRAINED}, 2 steps"].points) == 3
    assert findings.notes[0].startswith("Where the number that step 1 came to")


def test_the_states_are_of_the_last_token_before_a_step(tiny):
    model, tokenizer = tiny
    problem = load("sums_v1", "test", 1, levels="2").problems[0]
    states = compute_step_states(model, tokenizer, [problem], 1, "test")

    ids = encode_start(tokenizer, problem, problem.rationale.split("\n")[0])
    assert ids[: len(encode_prompt(tokenizer, problem, "cot"))] == encode_prompt(tokenizer, problem, "cot")
    with torch.no_grad():
        layers = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(states[0], torch.cat([layer[0, -1] for layer in layers]), atol=1e-4)


def test_a_changed_number_follows_or_is_unrelated(tiny, settings, monkeypatch):
    """A model that goes on from the text of step 1 alone: the answer is its last number plus what is left to do."""
    tokenizer = tiny[1]
    problems = load("sums_v1", "test", 20, levels="2,3").problems
    prompts_seen = []

    def go_on(model, tokenizer, prompts, max_new_tokens):
        prompts_seen.append([tokenizer.decode(prompt) for prompt in prompts])
        return [SimpleNamespace(ids=text) for text in prompts_seen[-1]]

    def finish(tokenizer, text, stops):
        question, _, rest = text.partition("?")
        result = int(rest.strip().split("= ")[-1])
        operations = question.split("What is ")[1].split(" ")[3:]
        for sign, number in zip(operations[::2], operations[1::2], strict=True):
            result += int(number) if sign == "+" else -int(number)
        return f"\\boxed{{{result}}}"

    monkeypatch.setattr(planning, "generate", go_on)
    monkeypatch.setattr(planning, "decode_text", finish)

    patched = patch(tiny[0], tokenizer, problems, settings("planning"))
    assert patched.follows.all()
    assert not patched.unrelated.any()
    plain, result, used = prompts_seen
    for before, changed, other in zip(plain, result, used, strict=True):
        assert before.split("?")[0] == changed.split("?")[0] != other.split("?")[0]
        assert before.split("\n")[-2] != changed.split("\n")[-2]
        assert before.split("?")[1] == other.split("?")[1]
