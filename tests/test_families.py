"""Architectures that a base may have: a tiny random model of each goes through the check, decoding, sft and rl."""

import copy
import zlib

import pytest
import torch
import transformers

from data.records import Problem
from pipeline import base, check, export, generate, nano, prompts, rl, sft
from pipeline.prompts import PLAIN_TEMPLATE
from pipeline.recipe import Recipe, RlSettings, SftSettings
from pipeline.samples import Task

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.5}
GATED = {**SHAPE, "intermediate_size": 64, "num_key_value_heads": 2}
CONTEXT = {"max_position_embeddings": 1024}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, "initializer_range": 0.5}
# Gemma's own has no system role; Qwen3's closes an empty thought where thinking is switched off.
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + nano.TEMPLATE
)
SWITCH = nano.TEMPLATE.replace(
    "<|assistant|>{% endif %}",
    "<|assistant|>{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
FAMILIES = {
    "Llama": (GATED | CONTEXT, nano.TEMPLATE),
    "Qwen2": (GATED | CONTEXT, nano.TEMPLATE),
    "Qwen3": (GATED | CONTEXT | {"head_dim": 8}, SWITCH),
    "Gemma3": (GATED | CONTEXT | {"head_dim": 8, "sliding_window": 16}, NO_SYSTEM),
    "Phi3": (GATED | CONTEXT, nano.TEMPLATE),
    "GPTNeoX": ({**SHAPE, "intermediate_size": 64} | CONTEXT, None),
    "GPT2": (GPT2, None),
    "Qwen2Moe": (GATED | CONTEXT | EXPERTS, nano.TEMPLATE),
}
CONFIGS = {"Gemma3": "Gemma3TextConfig"}
QUESTIONS = [Problem(f"p{i}", f"What is {7**i} + {i}?", str(7**i + i), "number", level=1) for i in range(6)]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """What save_pretrained writes of a tiny random model of the family, and its tokenizer."""
    settings, template = FAMILIES[request.param]
    tokenizer = nano.tokenizer_of([*prompts.INSTRUCTIONS.values(), "What is 25 * 4 + 8?", "25 * 4 = 100\n\\boxed{108}"])
    tokenizer.chat_template = template
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = getattr(transformers, CONFIGS.get(request.param, f"{request.param}Config"))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **ids, **settings))
    made = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def test_the_check_finds_what_a_run_needs(folder):
    found = {each.name: each for each in check.findings(folder, Recipe())}
    assert [each for each in found.values() if not each.good] == []
    assert "x 2" in found["LoRA on"].found
    own = base.load_tokenizer(folder).chat_template != PLAIN_TEMPLATE
    assert found["template"].found == ("its own" if own else "none of its own; ours")


def test_decoding_a_batch_is_what_generate_does_with_each(folder):
    model, tokenizer = base.load(folder, setting="fp32")
    asked = [prompts.prompt_ids(tokenizer, problem, "think") for problem in QUESTIONS]
    ours = generate.generate(model, tokenizer, asked, max_tokens=20)
    for prompt, sample in zip(asked, ours, strict=True):
        given = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, len(prompt) :].tolist()
        assert sample.ids == given


def test_it_is_trained_by_sft_and_then_by_rl_and_merging_leaves_no_trace(folder, tmp_path):
    model, tokenizer = base.load(folder, trainable=True, setting="fp32")
    rows = sft.tokenized(tokenizer, [(p, prompts.direct_answer(p.answer)) for p in QUESTIONS * 2])
    settings = SftSettings(batch_size=4, lora_rank=4)
    trained = sft.train(model, tokenizer, rows, settings, 0, tmp_path / "sft", sft.lora(settings))
    before = copy.deepcopy(trained.eval().state_dict())
    assert any(value.abs().sum() > 0 for name, value in before.items() if "lora_B" in name)
    asked = [prompts.prompt_ids(tokenizer, problem, "think") for problem in QUESTIONS]
    given = generate.generate(trained, tokenizer, asked, max_tokens=8, temperature=1.0)
    for prompt, sample in zip(asked, given, strict=True):
        whole = torch.tensor([prompt + sample.ids], device=trained.device)
        logits = trained(whole).logits[0, len(prompt) - 1 : -1].cpu()
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.logprobs), own, atol=1e-3, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    rl_settings = RlSettings(
        steps=2,
        prompts=2,
        samples=4,
        micro_batch=4,
        max_tokens=8,
        temperature=2.0,
        probe=0,
        eval_every=2,
        reward="mine.py:of_a_test",
    )
    task = Task(lambda problem, completion: float(zlib.crc32(completion.text.encode()) % 2))
    pools = {"sums 1": QUESTIONS}
    folder = rl.train(trained, tokenizer, pools, pools, task, rl_settings, 0, tmp_path / "rl", "rl")
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "rl" / "alarm.txt").exists()
    assert any(not torch.equal(value, before[name]) for name, value in trained.state_dict().items() if "lora_B" in name)


def test_a_base_that_will_not_do_is_told_so(tmp_path, tiny):
    model, tokenizer = tiny
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = 128
    short.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wrong = [each for each in check.findings(tmp_path, Recipe()) if not each.good]
    assert [each.name for each in wrong] == ["context"] and "128 tokens" in wrong[0].found


@pytest.mark.parametrize(("setting", "width"), [("nf4", 64), ("nf4", 96), ("int8", 64)])
def test_a_quantized_base_decodes_trains_an_adapter_and_keeps_its_weights(tiny, tmp_path, setting, width):
    model, tokenizer = tiny
    wide = transformers.LlamaConfig(
        **(model.config.to_dict() | {"hidden_size": width, "intermediate_size": 128, "head_dim": width // 4})
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    quantized, tokenizer = base.load(tmp_path / "base", trainable=True, setting=setting)
    assert any("4bit" in type(m).__name__ or "8bit" in type(m).__name__ for m in quantized.modules())
    rows = sft.tokenized(tokenizer, [(p, prompts.direct_answer(p.answer)) for p in QUESTIONS * 2])
    settings = SftSettings(batch_size=4, lora_rank=4)
    trained = sft.train(quantized, tokenizer, rows, settings, 0, tmp_path / "sft", sft.lora(settings))
    moved = {name: value for name, value in trained.state_dict().items() if "lora_B" in name}
    assert moved and all(value.abs().sum() > 0 for value in moved.values())
    asked = [prompts.prompt_ids(tokenizer, problem, "think") for problem in QUESTIONS]
    before = trained.eval()(torch.tensor(asked[:1], device=quantized.device)).logits
    samples = generate.generate(trained, tokenizer, asked, max_tokens=8)
    assert all(len(sample.ids) == 8 or sample.finish == "stop" for sample in samples)
    # Not to the bit: on a CPU decoding packs 4-bit weights for another kernel.
    after = trained(torch.tensor(asked[:1], device=quantized.device)).logits
    assert (after - before).abs().mean() < 0.03 * before.std()
    trained.save_pretrained(tmp_path / "adapter")
    merged = export.whole(tmp_path / "base", tmp_path / "adapter", setting)
    merged = merged(torch.tensor(asked[:1], device=merged.device)).logits.to(after)
    assert (merged - after).abs().mean() < 0.05 * before.std()
