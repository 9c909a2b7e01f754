"""The problems of in_context cannot be answered without the right examples."""

import numpy as np
import pytest

from eval.studies import HOLDS, UNSURE, judge
from pipeline.studies import in_context
from pipeline.studies.in_context import LABELS, MISLABELLED, OTHER, TASKS, TRUE, draw_made_up_word, draw_problem


def test_examples_are_different_and_of_both_classes():
    rng = np.random.default_rng(0)
    answers = []
    for task in TASKS:
        for _ in range(50):
            problem = draw_problem(rng, task, 16)
            answers.append(problem.answer)
            for way, examples in problem.examples.items():
                texts = {text for text, _ in examples}
                assert len(texts) == 16
                assert problem.question not in texts
                if way != MISLABELLED:
                    assert [sum(label for _, label in examples[i : i + 2]) for i in range(0, 16, 2)] == [1] * 8
            assert [text for text, _ in problem.examples[TRUE]] == [text for text, _ in problem.examples[MISLABELLED]]
    assert 0.4 < np.mean(answers) < 0.6


def draw_with_other_ending(rng, kind):
    return draw_made_up_word(rng, kind)[:4] + ("nt", "ld")[kind]


def draw_longer(rng, kind):
    return ("xx", "")[kind] + draw_made_up_word(rng, kind)


@pytest.mark.parametrize(
    ("other", "verdict"), [(draw_with_other_ending, HOLDS), pytest.param(draw_longer, UNSURE, id="alike")]
)
def test_a_learner_holds_unless_another_task_teaches_it_as_much(monkeypatch, settings, tiny_base, other, verdict):
    """It answers with the label of the last example whose ending is that of the question."""

    def learn(model, tokenizer, prompts, labels, label):
        logprobs = np.random.default_rng(0).normal(size=(len(prompts), 2))
        for row, prompt in zip(logprobs, prompts, strict=True):
            *examples, question = prompt.split("\n")
            for example in examples:
                text, _, told = example.partition(" ->")
                if text[-2:] == question.removesuffix(" ->")[-2:]:
                    row[:] = [told == LABELS[0], told == LABELS[1]]
        return logprobs

    monkeypatch.setattr(in_context, "compute_label_logprobs", learn)
    monkeypatch.setattr(in_context, "TASKS", {"one": draw_made_up_word, "other": other})
    findings = in_context.measure(settings("in_context", problems_per_task=400), tiny_base)
    assert findings.effects[0].value == 0.5
    assert judge(findings.effects, findings.controls, 0.1)[0] == verdict
    assert {line.label: len(line.points) for line in findings.lines} == {TRUE: 5, MISLABELLED: 4, OTHER: 4}
