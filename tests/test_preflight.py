"""What samples of dev problems say of a training to come."""

import json
from dataclasses import replace

import pytest
from test_rl import PAID, PROBLEMS, SETTINGS, adapted, train

from pipeline import preflight, samples
from pipeline.generate import Sample
from pipeline.reward import NoSignal
from pipeline.samples import Task


@pytest.mark.parametrize(
    ("right", "says"), [(1.0, "nearly all are solved already"), (0.0, "nearly none is ever solved")]
)
def test_where_no_group_is_mixed_the_preflight_refuses_with_the_reason(tiny, tmp_path, monkeypatch, right, says):
    model, tokenizer = adapted(tiny)
    monkeypatch.setattr(preflight, "correctness", lambda *_: right)
    monkeypatch.setattr(
        samples, "generate", lambda model, tokenizer, prompts, **_: [Sample([1], finish="stop")] * len(prompts)
    )
    with pytest.raises(NoSignal, match=f"cannot learn: no group is mixed: {says}"):
        train(model, tokenizer, Task(lambda *_: right), PAID, tmp_path)
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert (found["pass_at_1"], found["pass_at_k"], found["mixed"]) == (right, right, 0)


def test_the_preflight_says_what_the_samples_say(tiny, monkeypatch):
    """Three levels: one of two right in each group, none, all."""
    monkeypatch.setattr(samples, "generate", lambda model, tokenizer, prompts, **_: [Sample([1])] * len(prompts))
    count: dict[str, int] = {}

    def right(problem, completion):
        count[problem.id] = count.get(problem.id, -1) + 1
        return {1: float(count[problem.id] % 2), 2: 0.0, 3: 1.0}[problem.level]

    monkeypatch.setattr(preflight, "correctness", right)
    rows = [replace(p, level=1 + i // 2) for i, p in enumerate(PROBLEMS[:6])]
    dev = {f"sums {level}": [p for p in rows if p.level == level] for level in (1, 2, 3)}
    earned = iter([0.0, 1.0, 0.0, 1.0] * 2 + [0.0] * 8 + [1.0] * 8)
    found = preflight.preflight(*tiny, dev, Task(lambda *_: next(earned)), SETTINGS, 0)
    assert found == {
        "problems": 6, "k": 4, "pass_at_1": 0.5, "pass_at_k": 4 / 6, "mixed": 2 / 6, "cut": 1.0,
        "rates": {"sums 1": (4, 8), "sums 2": (0, 8), "sums 3": (8, 8)}, "levels": ["sums 1"],
        "verdict": "can learn: 33% of the groups are mixed, most on sums 1",
    }  # fmt: skip


def test_a_few_mixed_groups_are_little_to_learn_from():
    found = {"mixed": 0.04, "cut": 0.0, "pass_at_k": 0.99, "pass_at_1": 0.97, "levels": []}
    assert preflight.verdict(found) == (
        "can hardly learn: only 4% of the groups are mixed: nearly all are solved already; take harder levels"
    )
    assert preflight.verdict(found | {"cut": 0.8}).endswith(
        "cut by the token limit; raise max_tokens or train sft on shorter traces"
    )
