"""Both metrics of emergence, and what their curves come to."""

import numpy as np
import pytest
import torch

from data.datasets import load
from data.files import UserError
from eval.studies import FAILS, HOLDS, UNSURE, judge
from pipeline.config import load_studies
from pipeline.prompts import encode_prompt, encode_text
from pipeline.studies import emergence
from pipeline.studies.emergence import find_largest_jump, score_solution, shift_answers, summarize


def test_a_solution_is_exact_where_greedy_decoding_writes_it(tiny, monkeypatch):
    model, tokenizer = tiny
    problem = load("sums_v1", "dev", 1, levels="2").problems[0]
    exact, logprob = score_solution(model, tokenizer, problem)
    assert exact == 0.0

    prompt = encode_prompt(tokenizer, problem, "cot")
    ids = [*encode_text(tokenizer, f"{problem.rationale}\n\\boxed{{{problem.answer}}}"), tokenizer.eos_token_id]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0], -1)
    expected = np.mean([float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)])
    assert logprob == pytest.approx(expected, abs=1e-4)

    # What it writes itself is exact, and likelier.
    own = list(prompt)
    for _ in range(5):
        with torch.no_grad():
            own.append(int(model(torch.tensor([own])).logits[0, -1].argmax()))
    mask = [0] * len(prompt) + [1] * 5
    monkeypatch.setattr(emergence, "build_row", lambda *_: {"input_ids": own, "completion_mask": mask})
    exact, likelier = score_solution(model, tokenizer, problem)
    assert exact == 1.0
    assert likelier > logprob


def test_shuffled_answers_are_those_of_other_problems_of_the_level():
    problems = load("sums_v1", "dev", 40, levels="1,2,3").problems
    shuffled = shift_answers(problems)
    assert sorted(problem.id for problem in shuffled) == sorted(problem.id for problem in problems)

    right = {problem.id: problem for problem in problems}
    assert all(problem.rationale == right[problem.id].rationale for problem in shuffled)
    assert sum(problem.answer == right[problem.id].answer for problem in shuffled) < 10
    for level in (1, 2, 3):
        answers = [sorted(one.answer for one in some if one.level == level) for some in (problems, shuffled)]
        assert answers[0] == answers[1]


def test_every_size_is_asked_both_sets(settings, monkeypatch, tiny):
    monkeypatch.setattr(emergence, "pretrain_size", lambda texts, hidden, layers: None)
    monkeypatch.setattr(emergence, "load_model", lambda folder, load: tiny)
    findings = emergence.measure(settings("emergence", problems=6, resamples=10), None)
    assert findings.n == 6
    assert [len(line.points) for line in findings.lines] == [5, 5, 5]


def test_the_largest_jump_is_a_share_of_the_rise():
    assert find_largest_jump(np.array([0.0, 0.0, 1.0, 1.0])) == 1.0
    assert find_largest_jump(np.array([0.0, 0.25, 0.5, 0.75, 1.0])) == 0.25
    assert find_largest_jump(np.array([0.3, 0.3])) == 1.0


@pytest.mark.parametrize(
    ("exact", "verdict"), [([0.0, 0.0, 0.1, 0.9, 1.0], HOLDS), ([0.0, 0.25, 0.5, 0.75, 1.0], FAILS)]
)
def test_the_verdict_compares_the_two_metrics(settings, exact, verdict):
    n = 400
    smooth = np.repeat(np.linspace(-2, 0, 5)[:, None], n, axis=1)
    hits = np.array([np.arange(n) < share * n for share in exact], dtype=float)
    right = np.stack([hits, smooth], axis=1)
    shuffled = np.zeros_like(right)

    findings = summarize([10**i for i in range(5)], right, shuffled, settings("emergence", resamples=100))
    assert judge(findings.effects, findings.controls, 0.1)[0] == verdict
    assert findings.lines[0].points[-1].value == 1.0
    # Where wrong answers are matched as well, the verdict is open.
    findings_of_guesses = summarize([1, 2, 3, 4, 5], right, right, settings("emergence", resamples=100))
    assert judge(findings_of_guesses.effects, findings_of_guesses.controls, 0.1)[0] == UNSURE
    assert findings.lines[1].points[1].value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [("[[24,2],[50,2],[96,4]]", "must be a multiple of 8"), ("[[24,2],[96,4],[48,2]]", "the sizes must rise")],
)
def test_sizes_that_no_curve_comes_of_are_refused(sizes, words):
    with pytest.raises(UserError, match=words):
        load_studies({"emergence": emergence.Settings}, [f"emergence.sizes={sizes}"])
