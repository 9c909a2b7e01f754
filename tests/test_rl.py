"""RL on an untrained model: the trainer's shortcuts change nothing, and a training that trains nothing is refused."""

import json
from dataclasses import replace

import pytest
import torch

from data.records import Problem
from pipeline import reward, rl, sft
from pipeline.recipe import RlSettings, SftSettings
from pipeline.reward import NoSignal

SETTINGS = RlSettings(
    steps=2, prompts=2, samples=4, micro_batch=4, max_tokens=12, probe=4, eval_every=1, dev=4, learning_rate=1e-3
)
PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(6, 14)]


def adapted(tiny):
    import copy

    from peft import get_peft_model

    model, tokenizer = tiny
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(model), sft.lora(SftSettings(lora_rank=4))), tokenizer


def length_reward(problem, text, finish):
    return float(len(text) % 2)


def test_the_weights_move_and_the_best_adapter_is_kept(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    task = rl.Task(length_reward)
    settings = replace(SETTINGS, steps=3, eval_every=2)  # the last step is looked at, too
    best = rl.train(model, tokenizer, PROBLEMS, PROBLEMS, task, settings, 0, tmp_path, "rl")
    assert (best / "adapter_model.safetensors").is_file()
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["step"] for point in curve] == [0, 2, 3]
    assert any(p.detach().abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_a_training_that_moves_no_weight_is_an_error(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    frozen = replace(SETTINGS, learning_rate=0.0)
    with pytest.raises(RuntimeError, match="left every weight as it was"):
        rl.train(model, tokenizer, PROBLEMS, PROBLEMS, rl.Task(length_reward), frozen, 0, tmp_path, "rl")


@pytest.mark.parametrize(
    ("right", "says"), [(1.0, "nearly all are solved already"), (0.0, "nearly none is ever solved")]
)
def test_problems_without_mixed_rewards_are_refused_with_the_reason(tiny, tmp_path, monkeypatch, right, says):
    model, tokenizer = adapted(tiny)
    monkeypatch.setattr(rl, "correctness", lambda *_: right)
    monkeypatch.setattr(
        rl, "generate", lambda model, tokenizer, prompts, **_: [rl.Sample([1], finish="stop")] * len(prompts)
    )
    with pytest.raises(NoSignal, match=f"only 0 of 8 train problems give mixed rewards.*: {says}"):
        rl.train(model, tokenizer, PROBLEMS, PROBLEMS, rl.Task(lambda *_: right), SETTINGS, 0, tmp_path, "rl")
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert (found["pass_at_1"], found["pass_at_k"], found["mixed"]) == (right, right, 0)


def test_the_preflight_says_what_the_samples_say(tiny, monkeypatch):
    hits = iter([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(rl, "generate", lambda model, tokenizer, prompts, **_: [rl.Sample([1])] * len(prompts))
    seen: dict[tuple, float] = {}

    def rewards(model, tokenizer, problems, samples, task):
        return [seen.setdefault((p.id, i), next(hits, 0.0)) for i, p in enumerate(problems)]

    monkeypatch.setattr(rl, "rewards", rewards)
    two = [replace(p, level=level) for p, level in zip(PROBLEMS[:2], (1, 2), strict=True)]
    kept, found = rl.preflight(*tiny, two, rl.Task(length_reward), SETTINGS, 0)
    assert kept == two[:1]
    assert found == {
        "problems": 2, "k": 4, "pass_at_1": 3 / 8, "pass_at_k": 0.5, "mixed": 0.5, "cut": 1.0,
        "pass_by_level": {"1": 0.75, "2": 0.0},
    }  # fmt: skip
    assert "cut by the token limit" in rl.verdict(found)


def test_the_rewards_of_controls_do_not_look_at_the_answer():
    texts = [f"<think>{i}</think>\\boxed{{{i}}}" for i in range(200)]
    coins = [reward.coin(PROBLEMS[0], text, "stop") for text in texts]
    assert coins == [reward.coin(PROBLEMS[0], text, "stop") for text in texts] and 70 <= sum(coins) <= 130
    for text, boxed in ((texts[3], 1.0), ("3", 0.0), ("<think>\\boxed{3}", 0.0)):
        assert reward.form(PROBLEMS[0], text, "stop") == boxed


def test_prefixes_are_taken_in_turn(tiny):
    model, tokenizer = adapted(tiny)
    task = rl.Task(length_reward, PREFIXES)
    samples = rl.sample(model, tokenizer, ["What is 1 + 1?", "What is 2 + 2?"] * 4, task, SETTINGS, seed=0)
    starts = [tokenizer.decode(s.ids[:2]) for s in samples]
    assert starts == ["<think></think>", "<think>\n"] * 4


PREFIXES = ("<think></think>\n", "<think>\n")


def direct_pays(problem, text, finish):
    return float(text.startswith(PREFIXES[0]))


def test_with_prefixes_only_the_choice_is_trained(tiny, tmp_path, monkeypatch):
    """Nothing reaches TRL's loss after the token in which the prefixes differ, and its ratio is to a fair coin."""
    seen = []
    model, tokenizer = adapted(tiny)
    original = rl.GRPOTrainer._compute_loss

    def note(self, model, inputs):
        seen.append(inputs)
        return original(self, model, inputs)

    monkeypatch.setattr(rl.GRPOTrainer, "_compute_loss", note)
    task = rl.Task(direct_pays, PREFIXES)
    rl.train(model, tokenizer, PROBLEMS, PROBLEMS, task, SETTINGS, 0, tmp_path, "adaptive")
    assert len(seen) == 4
    for inputs in seen:
        assert (inputs["completion_mask"] * inputs["tool_mask"]).tolist() == [[0, 1]] * 4
        torch.testing.assert_close(inputs["old_per_token_logps"][:, 1].exp(), torch.full((4,), 0.5))


def test_the_choice_that_pays_is_learnt(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    task = rl.Task(direct_pays, PREFIXES)

    def preference() -> float:
        logits = model(torch.tensor([rl.encode(tokenizer, rl.asked(tokenizer, PROBLEMS[0]) + "<think>")])).logits[0, -1]
        direct, think = (rl.encode(tokenizer, prefix)[1] for prefix in PREFIXES)
        return float(logits[direct] - logits[think])

    before = preference()
    settings = RlSettings(**{**SETTINGS.__dict__, "steps": 8, "probe": 0, "learning_rate": 1e-2})
    rl.train(model, tokenizer, PROBLEMS, PROBLEMS, task, settings, 0, tmp_path, "adaptive")
    assert preference() > before + 0.5


def test_what_is_kept_is_the_most_accurate_or_the_cheapest_within_the_loss():
    content, choice = rl.Task(length_reward), rl.Task(length_reward, PREFIXES)
    start = {"accuracy": 0.40, "tokens": 50.0, "reward": 0.40}
    longer = {"accuracy": 0.42, "tokens": 60.0, "reward": 0.42}
    shorter = {"accuracy": 0.39, "tokens": 30.0, "reward": 0.49}
    worse = {"accuracy": 0.30, "tokens": 20.0, "reward": 0.60}
    assert [content.better(point, start, start, 0.02) for point in (longer, shorter, worse)] == [True, False, False]
    assert [choice.better(point, start, start, 0.02) for point in (longer, shorter, worse)] == [False, True, False]
    assert not choice.better(shorter, start, start, 0.0)
    assert not choice.better(shorter, shorter, start, 0.02)


def test_leaving_out_rows_and_columns_and_sharing_prompts_keeps_the_gradient(tiny, tmp_path, monkeypatch):
    """The same step with TRL's own loss and with ours."""
    gradients = []
    for ours in (True, False):
        with monkeypatch.context() as patch:
            if not ours:
                patch.delattr(rl.Trainer, "_compute_loss")
                patch.delattr(rl.Trainer, "_get_per_token_logps_and_entropies")
            model, tokenizer = adapted(tiny)
            seen: dict[str, torch.Tensor] = {}
            step = torch.optim.AdamW.step

            def note(self, *args, seen=seen, model=model, step=step, **kwargs):
                seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
                return step(self, *args, **kwargs)

            patch.setattr(torch.optim.AdamW, "step", note)
            folder = tmp_path / str(ours)
            one = RlSettings(**{**SETTINGS.__dict__, "steps": 1, "prompts": 4, "micro_batch": 16})
            rl.train(model, tokenizer, PROBLEMS, PROBLEMS, rl.Task(length_reward), one, 0, folder, "rl")
            gradients.append(seen)
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)
