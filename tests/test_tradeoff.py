"""Accuracy against tokens: the curves, what a choice costs, and the probe."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.records import Completion, Problem, write_json, write_records
from eval import tradeoff
from eval.extract import thinks
from eval.tradeoff import Way, choices, compared, measures, misses, mixed, read_at, swept
from pipeline import probe
from pipeline.prompts import prompt_ids


def way(right, tokens, thought=None, asked=None):
    thought = np.array(tokens if thought is None else thought, dtype=float)
    return Way(np.array(right, dtype=float), np.array(tokens, dtype=float), thought, thought > 0, asked)


NEVER = way([1, 0, 0, 0], [8, 8, 8, 8], [0, 0, 0, 0])
ALWAYS = way([1, 1, 1, 0], [40, 50, 60, 90], [30, 40, 50, 80])


def test_a_curve_is_straight_between_its_points_and_its_area_is_its_mean_height():
    ends = np.array([8.0, 0.25]), np.array([60.0, 0.75])
    line, tokens = measures(*ends, np.empty((0, 2)))
    assert line == pytest.approx(0.5) and tokens == pytest.approx(1 - 0.01 * 52 / 0.5 / 60, abs=0.02)
    above, sooner = measures(*ends, np.array([[34.0, 0.75]]))
    assert above == pytest.approx((0.5 * 26 + 0.75 * 26) / 52, abs=0.005)
    assert sooner == pytest.approx(34 / 60, abs=0.02)
    assert read_at(np.array([[34.0, 0.75], [8.0, 0.25]]), np.array([21.0])) == pytest.approx(0.5)


def test_a_choice_that_knows_is_above_the_line_and_one_that_does_not_is_on_it():
    knowing = swept(NEVER, ALWAYS, np.array([0.9, 0.2, 0.1, 0.8]))
    assert [w.right.sum() for w in knowing][:: tradeoff.SHARES - 1] == [3, 1]
    assert [w.tokens.sum() for w in knowing] == sorted((w.tokens.sum() for w in knowing), reverse=True)
    # Half at once, those that lose nothing by it: all of the accuracy for half of the problems' thoughts.
    assert any(w.right.sum() == 3 and w.tokens.sum() == 8 + 50 + 60 + 8 for w in knowing)
    found = compared({tradeoff.NEVER: [NEVER], tradeoff.ALWAYS: [ALWAYS], tradeoff.CHOICE: [knowing[10]]})
    measured = found[tradeoff.CHOICE]["tokens_at_equal"]
    assert measured["value"] == pytest.approx((8 + 50 + 60 + 8) / 240, abs=0.01)
    low, high = measured["interval"]
    assert low <= measured["value"] <= high and low < high
    assert found == compared({tradeoff.NEVER: [NEVER], tradeoff.ALWAYS: [ALWAYS], tradeoff.CHOICE: [knowing[10]]})


def test_what_a_choice_loses_and_thinks_in_vain():
    problems = [Problem(f"p{i}", "?", "1", "number", level=level) for i, level in enumerate((1, 1, 5, 5))]
    chosen = mixed(NEVER, ALWAYS, np.array([False, True, False, False]))
    found = choices(problems, chosen, NEVER, ALWAYS)
    assert found["thinks"] == {"1": 0.5, "5": 1.0}
    assert found["lost"] == 0.25  # the second: wrong at once, right with a thought
    assert found["in_vain"] == pytest.approx((30 + 80) / (40 + 8 + 60 + 90))  # the first was known, the last is wrong


def test_how_far_thoughts_miss_the_tokens_asked_for():
    assert misses(way([1, 1], [20, 30], [10, 24], asked=16)) == {"mean": 1.0, "beyond": 0.5, "most": 8.0}
    assert misses(way([1, 1], [20, 30], [10, 16], asked=16))["most"] == 0.0


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("<think>\n2 + 2 = 4\n</think>\n\\boxed{4}", True),
        ("<think></think>\n\\boxed{4}", False),
        ("<think>\n</think>\nThe answer is \\boxed{4}", False),
        ("<think></think>\n2 + 2 = 4 and 4 + 1 = 5\n\\boxed{5}", True),
        ("2 + 2 = 4 and 4 + 1 = 5, so \\boxed{5}", False),
        ("<think>2 + 2", True),
    ],
)
def test_who_reasons_after_the_tag_has_thought(text, does):
    assert thinks(text) is does


def test_everything_is_written_from_what_is_on_disk(tmp_path, capsys):
    problems = [Problem(f"p{i}", f"{i} + {i}?", str(2 * i), "number", level=i % 2 + 1) for i in range(8)]
    for name in ("sums", "more"):  # whose problems have the same ids
        write_records(tmp_path / "problems" / f"{name}.jsonl", problems)
    told = []
    for kind, asked, right, thought in (
        (tradeoff.NEVER, None, 2, 0),
        (tradeoff.ALWAYS, None, 6, 40),
        (tradeoff.FORCED, 8, 3, 8),
        (tradeoff.CHOICE, None, 6, 20),
        (tradeoff.LENGTH, 8, 2, 12),
    ):
        folder = f"{kind}-{asked}"
        texts = [
            Completion(
                p.id,
                f"<think>{'x' * thought}</think>\n\\boxed{{{p.answer if i < right else 99}}}",
                5,
                thought,
                6,
                "stop",
            )
            for i, p in enumerate(problems)
        ]
        for name in ("sums", "more"):
            write_records(tmp_path / "tradeoff" / folder / f"{name}.jsonl", texts)
        told.append({"kind": kind, "asked": asked, "folder": folder})
    said = {"base": "x", "seed": 0, "benchmarks": ["sums", "more"], "n": {"sums": 8, "more": 8}, "ways": told}
    scores = [1 - i / 8 for i in range(8)]
    said["probe"] = {"threshold": 0.5, "scores": {"sums": scores, "more": scores[::-1]}}
    write_json(tmp_path / "tradeoff" / "ways.json", said)
    assert tradeoff.main(["--run", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| learnt choice |  | 75.0 | 26.0 | 57 % | 100 % |" in text
    # It thinks on the four that a thought makes right, not on the two that are known and the two that are lost.
    assert "| perfect choice |  | 75.0 | 26.0 | 57 % | 50 % |" in text
    assert "| learnt length | 8 | 4.0 | 100 % | 4 |" in text
    assert "AUROC of 1.00" in text and "AUROC of 0.00" in text  # the scores of each benchmark are its own
    found = json.loads((tmp_path / "tradeoff" / "tradeoff.json").read_text())
    assert found["parts"]["sums"]["compared"]["learnt choice"]["above_forced"]["value"] > 0
    assert (tmp_path / "tradeoff" / "tradeoff.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "tradeoff" / "tradeoff.md").read_text() == text.removesuffix("\n")
    # Another scoring of other problems under the same name and ids
    said["problems"] = {name: tradeoff.problems_key(problems) for name in ("sums", "more")}
    write_json(tmp_path / "tradeoff" / "ways.json", said)
    assert tradeoff.main(["--run", str(tmp_path)]) == 0
    write_records(tmp_path / "problems" / "more.jsonl", [replace(p, answer="7") for p in problems])
    assert tradeoff.main(["--run", str(tmp_path)]) == 2
    assert "more has other problems now than were asked" in capsys.readouterr().err


def test_without_answers_on_disk_it_says_what_to_run(tmp_path, capsys):
    assert tradeoff.main(["--run", str(tmp_path)]) == 2
    assert "run `make tradeoff` first" in capsys.readouterr().err


def test_hidden_states_are_those_of_the_prompt_alone(tiny):
    model, tokenizer = tiny
    prompts = [prompt_ids(tokenizer, Problem("x", f"What is {n}?", "1", "number"), "think") for n in (7, 123456, 42)]
    found = probe.states(model, prompts, batch_size=2)
    for prompt, state in zip(prompts, found, strict=True):
        alone = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(state, torch.stack([layer[0, -1] for layer in alone]), atol=1e-4, rtol=1e-4)


def test_the_probe_finds_a_direction_and_only_where_there_is_one():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 4, 16, generator=generator)
    right = hidden[:, 3] @ torch.randn(16, generator=generator) > 0
    made = probe.best(hidden[:200], right[:200], hidden[200:300], right[200:300])
    assert made.layer == 3
    assert (tradeoff.auroc(made(hidden[300:]).tolist(), right[300:].tolist()) or 0) > 0.95
    other = probe.fit(hidden[:200], right[:200], 1)
    assert 0.3 < (tradeoff.auroc(other(hidden[300:]).tolist(), right[300:].tolist()) or 0) < 0.7
