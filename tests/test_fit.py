"""Where the memory does not hold a batch it is taken in parts, and what is learnt stays the same."""

import json

import pytest
import torch
from test_rl import POOL, adapted, length_reward

from data.build import load
from data.records import BadInput
from pipeline import fit, rl, sft
from pipeline.recipe import RlSettings, SftSettings
from pipeline.samples import Task


@pytest.fixture
def small_memory(monkeypatch):
    """A function that lets a model train on no more than so many rows at once; the numbers of rows it was given."""

    def limit(model, most: int) -> list[int]:
        monkeypatch.setattr(fit, "TRIED", ("cpu",))
        inner, seen = model.get_input_embeddings(), []

        def refuse(module, inputs):
            if torch.is_grad_enabled():
                seen.append(len(inputs[0]))
                if len(inputs[0]) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        inner.register_forward_pre_hook(refuse)
        return seen

    return limit


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_sft_learns_the_same_in_parts(tiny, tmp_path, small_memory):
    import copy

    settings = SftSettings(batch_size=12, lora_rank=4, learning_rate=1e-2)
    problems = load("arithmetic_v1", "train")[:40]  # the last batch is not full
    learnt, steps = [], []
    for most in (100, 5):
        model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
        seen = small_memory(model, most)
        rows = sft.tokenized(tokenizer, sft.traces(problems, settings, 0))
        torch.manual_seed(0)
        folder = tmp_path / str(most)
        curve = sft.Curve(lambda model: {}, 0, folder)
        trained = sft.train(model, tokenizer, rows, settings, 0, folder, sft.lora(settings), [curve])
        learnt.append(weights(trained))
        steps.append(
            json.loads((sorted(folder.glob("checkpoint-*"))[-1] / "trainer_state.json").read_text())["global_step"]
        )
    assert steps[0] == steps[1] == -(-len(rows) // 12)
    assert seen[:3] == [12, 6, 3] and max(seen[3:]) == 3, "tried 12, 6 and 3 rows, trained on 3 at a time"
    for name, tensor in learnt[0].items():
        torch.testing.assert_close(learnt[1][name], tensor, atol=1e-5, rtol=1e-4)
    assert any(bool(tensor.abs().sum()) for name, tensor in learnt[0].items() if "lora_B" in name)


def test_rl_learns_the_same_in_parts(tiny, tmp_path, small_memory):
    settings = RlSettings(steps=1, prompts=2, samples=4, max_tokens=12, probe=0, learning_rate=1e-3, micro_batch=0)
    logs, learnt = [], []
    for most in (100, 3):
        model, tokenizer = adapted(tiny)
        seen = small_memory(model, most)
        rl.train(model, tokenizer, POOL, POOL, Task(length_reward), settings, 0, tmp_path / str(most), "rl")
        logs.append([json.loads(line) for line in (tmp_path / str(most) / "train.jsonl").read_text().splitlines()])
        learnt.append(weights(model))
    assert seen[:3] == [8, 4, 2] and max(seen[3:]) == 2
    assert logs[0][0]["grad_norm"] == pytest.approx(logs[1][0]["grad_norm"], rel=1e-4) and logs[0][0]["grad_norm"] > 0
    for name, tensor in learnt[0].items():
        torch.testing.assert_close(learnt[1][name], tensor, atol=1e-5, rtol=1e-4)


def test_a_row_that_does_not_fit_is_refused(tiny, tmp_path, small_memory):
    model, tokenizer = adapted(tiny)
    small_memory(model, 0)
    settings = RlSettings(steps=1, prompts=2, samples=2, max_tokens=12, probe=0, micro_batch=0)
    with pytest.raises(BadInput, match="not even one row"):
        rl.train(model, tokenizer, POOL, POOL, Task(length_reward), settings, 0, tmp_path, "rl")
