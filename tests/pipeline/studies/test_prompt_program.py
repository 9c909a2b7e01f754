"""The prompts of prompt_program, and what its figures come to."""

import numpy as np
import pytest

from eval.studies import FAILS, HOLDS, judge
from pipeline.studies import prompt_program
from pipeline.studies.prompt_program import Program


def test_shuffling_keeps_the_words_and_the_place_of_the_text():
    program = Program("Is it {first} or {second}?\nText: {text}\nIt is", ("good", "bad"))
    assert program.write("Hm.") == "Is it good or bad?\nText: Hm.\nIt is"

    shuffled = program.shuffle(np.random.default_rng(0))
    assert shuffled.prompt != program.prompt
    assert sorted(shuffled.prompt.split()) == sorted(program.prompt.split())
    lines = shuffled.write("Hm.").split("\n")
    assert [len(line.split()) for line in lines] == [5, 2, 2]
    assert lines[1].endswith(" Hm.")


@pytest.mark.parametrize(("reads_words", "verdict"), [(False, HOLDS), (True, FAILS)])
def test_a_program_that_works_as_well_shuffled_is_none(monkeypatch, settings, tiny_base, reads_words, verdict):
    """A model that knows every sentiment where it is asked for, or wherever the words are; and likes one label more."""
    recipe = settings("prompt_program")
    known: dict[str, list[str]] = {"positive": [], "negative": []}
    for _, row in prompt_program.read_jsonl(prompt_program.DATA / "prompt_program.jsonl"):
        known[row["label"]].append(row["text"])
    openings = [prompt.split("{")[0] for prompt in recipe.prompts]

    def know(model, tokenizer, prompts, labels, label):
        logprobs = np.zeros((len(prompts), 2)) + [3.0, 0.0]
        for row, prompt in zip(logprobs, prompts, strict=True):
            is_asked = labels[0] == " positive" and (reads_words or any(prompt.startswith(text) for text in openings))
            if is_asked:
                row += [any(text in prompt for text in texts) for texts in known.values()]
        return logprobs

    monkeypatch.setattr(prompt_program, "compute_label_logprobs", know)
    findings = prompt_program.measure(recipe, tiny_base)
    assert judge(findings.effects, findings.controls, recipe.margin)[0] == verdict
    raw, calibrated = (line.points[0].value for line in findings.lines[:2])
    assert (raw, calibrated) == (0.5, 1.0)
