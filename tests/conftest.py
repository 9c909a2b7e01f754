"""A tiny model with random weights, for tests that need a model but no skill."""

import os

import pytest

# Models this small are slower on two threads than on one, where anything else runs on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer): nano's tokenizer on a few texts, and an untrained Llama of 2 layers with grouped heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline import prompts
    from pipeline.nano import tokenizer_of

    tokenizer = tokenizer_of([*prompts.INSTRUCTIONS.values(), "What is 25 * 4 + 8?", "25 * 4 = 100\n\\boxed{108}"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval(), tokenizer
