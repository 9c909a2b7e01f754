"""Architectures that a base may have: a tiny random model of each decodes, trains an adapter, and decodes with it."""

import copy

import pytest
import torch
import transformers

from data.problem import Problem
from pipeline import prompts
from pipeline.forward import token_logprobs
from pipeline.generate import generate
from pipeline.models import nano
from pipeline.models.load import load_model, load_tokenizer
from pipeline.prompts import PLAIN_TEMPLATE, encode_prompt, format_direct_answer
from pipeline.training import build_row, train_sft

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,
    "max_position_embeddings": 1024,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, "initializer_range": 0.5}

# Gemma's own template has no system role. Qwen3's closes an empty thought where thinking is switched off.
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + nano.TEMPLATE
)
WITH_SWITCH = nano.TEMPLATE.replace(
    "<|assistant|>{% endif %}",
    "<|assistant|>{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)

ARCHITECTURES = {
    "Llama": (GROUPED, nano.TEMPLATE),
    "Qwen2": (GROUPED, nano.TEMPLATE),
    "Qwen3": (GROUPED | {"head_dim": 8}, WITH_SWITCH),
    "Gemma3Text": (GROUPED | {"head_dim": 8, "sliding_window": 16}, WITHOUT_SYSTEM),
    "Phi3": (GROUPED, nano.TEMPLATE),
    "GPTNeoX": (SHAPE, None),
    "GPT2": (GPT2, None),
    "Qwen2Moe": (EXPERTS, nano.TEMPLATE),
}

PROBLEMS = [Problem(f"p{i}", f"What is {7**i} + {i}?", str(7**i + i), "number", level=1) for i in range(6)]
TRAINER = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-2, "save_strategy": "no"}
LORA = {"r": 4, "target_modules": "all-linear"}


def save_base(folder, architecture, settings, template):
    """Write what save_pretrained writes of a tiny random model, and its tokenizer."""
    tokenizer = nano.train_tokenizer(
        [*prompts.INSTRUCTIONS.values(), "What is 25 * 4 + 8?", "25 * 4 = 100\n\\boxed{8}"]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)

    config = getattr(transformers, f"{architecture}Config")(
        # One more, as the tokenizer's class may add a token of its own (Qwen2).
        vocab_size=len(tokenizer) + 1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **settings,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def train_adapter(model, tokenizer, work):
    """A few steps of sft on direct answers."""
    rows = [build_row(tokenizer, p, format_direct_answer(p.answer), "think") for p in PROBLEMS * 2]
    return train_sft(model, tokenizer, rows, TRAINER, work=work, seed=0, label="sft", lora=LORA).eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    """The folder of a base of each architecture."""
    settings, template = ARCHITECTURES[request.param]
    path = tmp_path_factory.mktemp("bases") / request.param
    save_base(path, request.param, settings, template)
    return path


def test_a_base_without_a_template_gets_ours(folder):
    _, template = ARCHITECTURES[folder.name]
    assert load_tokenizer(folder).chat_template == (template or PLAIN_TEMPLATE)


def test_decoding_a_batch_is_what_generate_does_with_each(folder):
    model, tokenizer = load_model(folder, load="fp32")
    questions = [encode_prompt(tokenizer, problem, "think") for problem in PROBLEMS]
    sequences = generate(model, tokenizer, questions, max_new_tokens=20)

    for question, sequence in zip(questions, sequences, strict=True):
        whole = model.generate(torch.tensor([question]), max_new_tokens=20, do_sample=False)
        assert sequence.ids == whole[0, len(question) :].tolist()


def test_an_adapter_is_trained_and_merging_it_leaves_no_trace(folder, tmp_path):
    model, tokenizer = load_model(folder, trainable=True, load="fp32")
    trained = train_adapter(model, tokenizer, tmp_path)
    before = copy.deepcopy(trained.state_dict())
    assert any(weights.abs().sum() > 0 for name, weights in before.items() if "lora_B" in name)

    questions = [encode_prompt(tokenizer, problem, "think") for problem in PROBLEMS]
    sequences = generate(trained, tokenizer, questions, max_new_tokens=8, temperature=1.0)
    for question, sequence in zip(questions, sequences, strict=True):
        expected = token_logprobs(trained, question, sequence.ids)
        torch.testing.assert_close(torch.tensor(sequence.logprobs), expected, atol=1e-3, rtol=0)

    after = trained.state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in after.items())


@pytest.mark.parametrize(("load", "width"), [("nf4", 64), ("nf4", 96), ("int8", 64)])
def test_a_quantized_base_trains_an_adapter_and_decodes_with_it(tmp_path, load, width):
    wide = GROUPED | {"hidden_size": width, "intermediate_size": 128, "head_dim": width // 4}
    save_base(tmp_path / "base", "Llama", wide, nano.TEMPLATE)
    model, tokenizer = load_model(tmp_path / "base", trainable=True, load=load)
    assert any("4bit" in type(module).__name__ or "8bit" in type(module).__name__ for module in model.modules())

    trained = train_adapter(model, tokenizer, tmp_path / "sft")
    changed = [weights for name, weights in trained.state_dict().items() if "lora_B" in name]
    assert changed
    assert all(weights.abs().sum() > 0 for weights in changed)

    questions = [encode_prompt(tokenizer, problem, "think") for problem in PROBLEMS]
    first = torch.tensor(questions[:1], device=model.device)
    before = trained(first).logits
    sequences = generate(trained, tokenizer, questions, max_new_tokens=8)
    assert all(len(sequence.ids) == 8 or sequence.finish == "stop" for sequence in sequences)

    # Not to the bit: on a CPU decoding packs 4-bit weights for another kernel.
    difference = (trained(first).logits - before).abs().mean()
    assert difference < 0.03 * before.std()
