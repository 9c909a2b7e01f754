"""A model is asked in one place: completions come in order, and an interrupted evaluation goes on."""

import json

import pytest

from data.files import UserError, append_jsonl
from data.problem import Problem, record_to_json
from pipeline.evaluate import evaluate
from pipeline.generate import generate
from pipeline.prompts import encode_prompt
from pipeline.thinking_budget import ThinkingLimits

PROBLEMS = [Problem(f"p{i}", f"What is {i} * {i}?", str(i * i), "number") for i in range(8)]
SETTINGS = {"max_new_tokens": 12, "batch_size": 4, "label": "test"}


def test_completions_are_in_order_and_are_what_is_generated(tiny):
    model, tokenizer = tiny
    evaluation = evaluate(model, tokenizer, PROBLEMS, "think", **SETTINGS)
    assert [completion.id for completion in evaluation.completions] == [problem.id for problem in PROBLEMS]
    assert evaluation.seconds > 0

    prompts = [encode_prompt(tokenizer, problem, "think") for problem in PROBLEMS]
    sequences = generate(model, tokenizer, prompts, max_new_tokens=12)
    for completion, prompt, sequence in zip(evaluation.completions, prompts, sequences, strict=True):
        assert completion.prompt_tokens == len(prompt)
        assert completion.thinking_tokens + completion.answer_tokens == len(sequence.ids)
        assert completion.finish == sequence.finish


def test_examples_prefix_and_limits_reach_the_model(tiny):
    example = Problem("e", "What is 1 + 1?", "2", "number", rationale="1 + 1 = 2")
    settings = {"prefix": "<think>", "thinking": ThinkingLimits(max_tokens=4), **SETTINGS}
    plain = evaluate(*tiny, PROBLEMS, "think", **settings).completions
    shown = evaluate(*tiny, PROBLEMS, "think", examples=[example], **settings).completions

    for zero_shot, one_shot in zip(plain, shown, strict=True):
        assert one_shot.prompt_tokens > zero_shot.prompt_tokens
        assert one_shot.text.startswith("<think>")
        assert one_shot.thinking_tokens <= 4


def test_an_interrupted_evaluation_asks_only_what_is_missing(tiny, tmp_path, monkeypatch):
    whole = evaluate(*tiny, PROBLEMS, "think", **SETTINGS)
    counts = []

    def count_prompts(model, tokenizer, prompts, **settings):
        counts.append(len(prompts))
        return generate(model, tokenizer, prompts, **settings)

    monkeypatch.setattr("pipeline.evaluate.generate", count_prompts)
    first = evaluate(*tiny, PROBLEMS[:3], "think", partial=tmp_path / "partial", **SETTINGS)

    # A kill cuts a line off; what took time before counts.
    [file] = (tmp_path / "partial").iterdir()
    row = json.loads(file.read_text().splitlines()[0].partition(" ")[2])
    append_jsonl(file, [row | {"id": "p7", "seconds": 100.0}])
    with open(file, "a", encoding="utf-8") as stream:
        stream.write('1234abcd {"id": "p6')

    second = evaluate(*tiny, PROBLEMS, "think", partial=tmp_path / "partial", **SETTINGS)
    assert counts == [3, 4]
    assert first.completions == whole.completions[:3]
    assert second.completions[:7] == whole.completions[:7]
    assert second.completions[7].text == row["text"]
    assert 100 < second.seconds < 200

    third = evaluate(*tiny, PROBLEMS, "think", partial=tmp_path / "partial", **SETTINGS)
    assert third.completions == second.completions
    assert counts[2] == 0


def test_an_interrupted_sampling_ends_with_the_texts_of_an_unbroken_one(tiny, tmp_path):
    settings = {"temperature": 1.0, "seed": 5, **SETTINGS}
    whole = evaluate(*tiny, PROBLEMS, "think", **settings).completions

    # What came before the kill, in another order than that of the problems.
    file = tmp_path / "partial" / "0.jsonl"
    file.parent.mkdir()
    append_jsonl(file, [record_to_json(whole[i]) | {"seconds": 1.0} for i in (6, 0, 3)])
    resumed = evaluate(*tiny, PROBLEMS, "think", partial=file.parent, **settings).completions
    assert resumed == whole


def test_a_prompt_that_leaves_no_room_is_refused(tiny):
    settings = SETTINGS | {"max_new_tokens": 100_000}
    with pytest.raises(UserError, match="go beyond the base's context"):
        evaluate(*tiny, PROBLEMS, "think", **settings)


def test_a_served_model_is_asked_for_its_own_tokens(tiny):
    model, tokenizer = tiny
    settings_seen = {}

    class Served:
        config = model.config
        generation_config = model.generation_config

        def generate(self, prompts, **settings):
            settings_seen.update(settings)
            return generate(model, tokenizer, prompts, max_new_tokens=settings["max_new_tokens"])

    served = evaluate(Served(), tokenizer, PROBLEMS, "think", **SETTINGS)
    assert served.completions == evaluate(model, tokenizer, PROBLEMS, "think", **SETTINGS).completions
    expected = {"max_new_tokens", "temperature", "seed", "places", "prefixes", "on_progress", "on_sequence_end"}
    assert settings_seen.keys() == expected
