"""SFT: what is trained is what generation is asked with, and every trace is one the grader takes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from data.build import load
from data.records import Problem
from pipeline import prompts, sft
from pipeline.lm_head import label_only_head
from pipeline.recipe import SftSettings

WORKED = SftSettings(direct_share=[0.0] * 5)


def test_a_row_is_the_prompt_of_generation_then_the_completion_then_the_end_of_turn(tiny):
    _, tokenizer = tiny
    [problem] = load("arithmetic_v1", "train")[:1]
    [(_, text)] = sft.traces([problem], WORKED, 0)
    [row] = sft.tokenized(tokenizer, [(problem, text)])
    before = prompts.prompt_ids(tokenizer, problem, "think")
    assert row["input_ids"][: len(before)] == before
    assert tokenizer.decode(row["input_ids"][len(before) :]) == text + tokenizer.eos_token
    assert row["completion_mask"] == [0] * len(before) + [1] * (len(row["input_ids"]) - len(before))


def test_every_problem_is_worked_and_the_share_of_its_level_is_answered_at_once_too():
    problems = load("arithmetic_v1", "train")[:500]
    pairs = sft.traces(problems, SftSettings(direct_share=[1.0, 0.5, 0.0, 0.0, 0.0]), 0)
    assert [p for p, text in pairs if text.startswith("<think>\n")] == problems
    direct = Counter(p.level for p, text in pairs if text == prompts.direct_answer(p.answer))
    levels = Counter(p.level for p in problems)
    assert len(pairs) == len(problems) + direct.total()
    assert direct[1] == levels[1] and 0.35 * levels[2] <= direct[2] <= 0.65 * levels[2] and set(direct) == {1, 2}


def test_a_trace_with_a_wrong_answer_is_refused():
    [problem] = load("arithmetic_v1", "train")[:1]
    broken = replace(problem, rationale="25 * 4 = 100\n</think>\n\\boxed{1}")
    with pytest.raises(ValueError, match="is graded wrong"):
        sft.traces([broken], WORKED, 0)


def test_the_traces_of_a_control_keep_the_answer_and_lose_the_reasoning():
    problems = load("arithmetic_v1", "train")[:200]
    worked = dict(sft.traces(problems, WORKED, 0))
    shuffled = dict(sft.traces(problems, replace(WORKED, steps="shuffled"), 0))
    moved = 0
    for problem, text in shuffled.items():
        assert sorted(text.split("\n")) == sorted(worked[problem].split("\n"))
        moved += text != worked[problem]
    assert moved == sum(len(set((p.rationale or "").split("\n"))) > 1 for p in problems) > 100
    answers = sft.traces(problems, replace(WORKED, steps="none"), 0)
    assert all(text == prompts.direct_answer(problem.answer) for problem, text in answers)


def test_batches_hold_rows_of_like_length_in_random_order():
    rows = [{"input_ids": [0] * n, "completion_mask": [1] * n} for n in range(21, 151)]
    ordered = sft.in_batches(rows, 8, seed=0)
    assert sorted(len(r["input_ids"]) for r in ordered) == list(range(21, 151))
    batches = [[len(r["input_ids"]) for r in ordered[i : i + 8]] for i in range(0, 128, 8)]
    padding = sum(max(b) * len(b) - sum(b) for b in batches) / sum(map(sum, batches))
    assert padding < 0.15
    means = [sum(b) / len(b) for b in batches]
    assert means != sorted(means) and means != sorted(means, reverse=True)


def test_answers_without_steps_are_dealt_out_over_the_batches():
    worked = [{"input_ids": [i] * 90, "completion_mask": [0] * 40 + [1] * 50} for i in range(61)]
    direct = [{"input_ids": [i] * 50, "completion_mask": [0] * 42 + [1] * 8} for i in range(61, 80)]
    ordered = sft.in_batches(worked + direct, 8, seed=0)
    assert sorted(row["input_ids"][0] for row in ordered) == list(range(80))
    shares = [sum(row in direct for row in ordered[i : i + 8]) for i in range(0, 80, 8)]
    assert set(shares) == {1, 2}


def test_an_answer_at_once_can_be_taught_without_the_choice_of_it(tiny):
    _, tokenizer = tiny
    problems = load("arithmetic_v1", "train")[:200]
    pairs = sft.traces(problems, replace(WORKED, steps="none"), 0)
    opening = len(prompts.encode(tokenizer, prompts.DIRECT))
    whole = [sum(row["completion_mask"]) for row in sft.tokenized(tokenizer, pairs)]
    some = [sum(row["completion_mask"]) for row in sft.tokenized(tokenizer, pairs, told=0.25)]
    assert {a - b for a, b in zip(whole, some, strict=True)} == {0, opening}
    assert 25 <= sum(a == b for a, b in zip(whole, some, strict=True)) <= 75


def test_the_label_only_head_gives_what_the_model_gives(tiny):
    import copy

    model = copy.deepcopy(tiny[0])
    ids = torch.randint(7, 200, (3, 10))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 8:] = -100
    logits = model(ids).logits[:, :-1] / 0.7
    expected = torch.log_softmax(logits, -1)
    label_only_head(model, temperature=0.7)
    attention = model.config._attn_implementation
    output = model(ids, labels=labels, fused_lm_head=True)
    assert model.config._attn_implementation == attention != "eager"  # decoding goes on with the fused one
    mask = labels[:, 1:] != -100
    chosen = expected.gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(output.log_probs, chosen * mask, atol=1e-5, rtol=1e-5)
    entropy = -(expected.exp() * expected).sum(-1)
    torch.testing.assert_close(output.entropy, entropy * mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, -(chosen * mask).sum() / mask.sum(), atol=1e-5, rtol=1e-5)


def test_a_template_without_a_system_role_gets_the_instruction_in_the_first_turn(tiny):
    import copy

    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    )
    text = prompts.render(tokenizer, prompts.messages(Problem("x", "What is 1 + 1?", "2", "number"), "cot"))
    assert text == f"[user] {prompts.INSTRUCTIONS['cot']}\n\nWhat is 1 + 1?\n"


def trained(tiny, work, tracker="none", callbacks=()):
    """A few steps of sft on the tiny model, with a look at dev every second one."""
    import copy

    tokenizer = tiny[1]
    rows = sft.tokenized(tokenizer, sft.traces(load("arithmetic_v1", "train")[:40], WORKED, 0))
    settings = replace(WORKED, batch_size=10)
    looks = iter((0.25, 0.5, 0.75))
    curve = sft.Curve(lambda model: {"n": 4, "accuracy": next(looks)}, 2, work)
    work.mkdir(parents=True)
    model = copy.deepcopy(tiny[0])
    sft.train(model, tokenizer, rows, settings, 0, work, sft.lora(settings), [*callbacks, curve], tracker)


def test_looks_at_dev_are_logged_as_a_tracker_sees_them(tiny, tmp_path):
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        seen: list[tuple[int, dict[str, float]]] = []

        def on_log(self, args, state, control, logs, **kwargs):
            self.seen.append((state.global_step, logs))

    trained(tiny, tmp_path / "nano" / "sft" / "work", callbacks=[Tracker()])
    dev = [(step, logs["dev_accuracy"]) for step, logs in Tracker.seen if "dev_accuracy" in logs]
    assert dev == [(0, 0.25), (2, 0.5), (4, 0.75)]
    assert any("loss" in logs or "mean_token_accuracy" in logs for _, logs in Tracker.seen), (
        "the steps' own log is lost"
    )


def test_trackio_writes_a_run_named_after_base_and_stage(tiny, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    import sqlite3

    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trained(tiny, tmp_path / "nano" / "sft" / "work", "trackio")
    [kept] = (tmp_path / "trackio").glob("ladder*.db")
    with sqlite3.connect(kept) as database:
        found = database.execute("select run_name, cast(metrics as text) from metrics").fetchall()
    assert {name for name, _ in found} == {"nano/sft"}
    assert sum("dev_accuracy" in metrics for _, metrics in found) == 3
