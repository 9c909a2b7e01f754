"""The patched forward gives what the stock one gives, and a training with it learns the same."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from data.problem import Problem
from pipeline import prompts, training
from pipeline.fast_training import speed_up_training

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def test_the_head_gives_what_the_model_gives(tiny):
    model = copy.deepcopy(tiny[0])
    ids = torch.randint(7, 200, (3, 10))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 8:] = -100
    expected = torch.log_softmax(model(ids).logits[:, :-1] / 0.7, -1)

    speed_up_training(model, temperature=0.7)
    attention = model.config._attn_implementation
    output = model(ids, labels=labels, fused_lm_head=True)

    # Decoding goes on with the fused attention.
    assert model.config._attn_implementation == attention != "eager"
    mask = labels[:, 1:] != -100
    chosen = expected.gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(output.log_probs, chosen * mask, atol=1e-5, rtol=1e-5)
    entropy = -(expected.exp() * expected).sum(-1)
    torch.testing.assert_close(output.entropy, entropy * mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, -(chosen * mask).sum() / mask.sum(), atol=1e-5, rtol=1e-5)


def test_what_is_computed_again_in_the_backward_pass_is_the_same(tiny):
    gradients = []
    for is_computed_again in (False, True):
        model = copy.deepcopy(tiny[0]).train()
        if is_computed_again:
            model.gradient_checkpointing_enable()
        speed_up_training(model)

        ids = torch.arange(7, 37).view(3, 10)
        model(ids, labels=ids, fused_lm_head=True).loss.backward()
        gradients.append([weights.grad for weights in model.parameters()])

    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("autocast", [True, False])
def test_an_adapter_in_fp32_on_a_base_in_bf16_learns_the_same(tiny, autocast):
    ids = torch.arange(7, 37).view(3, 10)

    gradients = []
    for fast in (False, True):
        torch.manual_seed(0)
        base = copy.deepcopy(tiny[0]).bfloat16()
        model = get_peft_model(base, LoraConfig(**LORA, init_lora_weights=False)).train()
        if fast:
            speed_up_training(model)

        # As the stock one attends there.
        model.set_attn_implementation("eager")
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            model(ids, labels=ids, **({"fused_lm_head": True} if fast else {})).loss.backward()
        gradients.append([weights.grad for weights in model.parameters() if weights.requires_grad])

    for stock, ours in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, stock, atol=1e-3, rtol=0.05)


def test_other_calls_are_left_alone(tiny):
    model = copy.deepcopy(tiny[0])
    training_free = model(torch.tensor([[7, 8, 9]])).logits

    speed_up_training(model)

    assert torch.equal(model(torch.tensor([[7, 8, 9]])).logits, training_free)


def test_it_learns_what_the_stock_trainer_learns(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    problems = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(6, 14)]
    texts = [prompts.format_thinking_answer(f"{p.question} {p.answer}", p.answer) for p in problems]
    rows = [training.build_row(tokenizer, p, text, "think") for p, text in zip(problems, texts, strict=True)]
    trainer = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}

    logs, gradients = [], []
    for fast in (True, False):
        step = torch.optim.AdamW.step
        seen: list[torch.Tensor] = []

        def note(self, *args, seen=seen, step=step, **kwargs):
            seen += [p.grad.clone() for group in self.param_groups for p in group["params"]]
            return step(self, *args, **kwargs)

        work = tmp_path / str(fast)
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", note)
            training.train_sft(
                copy.deepcopy(model),
                tokenizer,
                rows,
                trainer,
                work=work,
                seed=1,
                label="sft",
                lora=LORA,
                fast=fast,
            )
        logs.append([json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()])
        gradients.append(seen)

    for ours, stock in zip(*logs, strict=True):
        assert abs(ours["loss"] - stock["loss"]) < 1e-5
        assert abs(ours["entropy"] - stock["entropy"]) < 1e-4
    assert len(gradients[0]) == len(gradients[1]) > 0
    for ours, stock in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-3)
