"""Limits on thinking are exact, however a tokenizer splits the tags."""

import pytest

from pipeline.generate import generate
from pipeline.prompts import encode_text
from pipeline.thinking_budget import ThinkingLimits, count_thinking_tokens


def make_byte_tokenizer(**special):
    """Character-like tokens: each tag takes several, and one token may end a tag and begin the next."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", *alphabet, "th", "in", "></", "k>", "</"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("t", "h"), ("i", "n"), ("<", "/"), ("k", ">"), (">", "</")]

    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template="x", **special)


def make_half_special_tokenizer():
    """The opening tag is one token, as in Qwen3; the closing one is not."""
    return make_byte_tokenizer(additional_special_tokens=["<think>"])


def count_all(tokenizer, sequences):
    return [count_thinking_tokens(tokenizer, sequence.ids) for sequence in sequences]


@pytest.mark.parametrize("make_tokenizer", [None, make_byte_tokenizer, make_half_special_tokenizer])
def test_the_maximum_is_exact(tiny, make_tokenizer):
    """The model is untrained, so it writes anything."""
    model, tokenizer = tiny
    if make_tokenizer:
        tokenizer = make_tokenizer()

    prompts = [encode_text(tokenizer, f"{i} + {i * i} = ?") for i in range(48)]
    truncated = 0
    for max_tokens in (0, 1, 2, 5, 7, 12, 16):
        start = [] if max_tokens == 0 else encode_text(tokenizer, "<think>")
        sequences = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=60,
            temperature=1.0,
            seed=max_tokens,
            thinking=ThinkingLimits(max_tokens=max_tokens),
            prefixes=[start] * len(prompts),
            batch_size=16,
        )
        thinking_tokens = count_all(tokenizer, sequences)
        assert max(thinking_tokens) == max_tokens

        for sequence, count in zip(sequences, thinking_tokens, strict=True):
            is_closed = count == max_tokens and any(sequence.forced[len(start) :])
            if is_closed:
                assert "</think>\n\\boxed{" in tokenizer.decode(sequence.ids)
                truncated += 1

    assert truncated > 250, "too few of the 336 completions reached the maximum"


@pytest.mark.parametrize(("min_tokens", "max_tokens"), [(5, None), (12, None), (12, 12), (9, 20)])
def test_no_thought_ends_below_the_minimum(tiny, min_tokens, max_tokens):
    """Half of the rows begin just before the end of an empty thought, which a model would now close."""
    model, tokenizer = tiny
    prompts = [encode_text(tokenizer, f"What is {i} * 7?") for i in range(128)]
    starts = ["<think>", "<think>\n2 + 2 = 4\n<"]
    prefixes = [encode_text(tokenizer, starts[i % 2]) for i in range(len(prompts))]
    settings = {"max_new_tokens": 60, "temperature": 1.0, "prefixes": prefixes, "seed": 3}

    free = generate(model, tokenizer, prompts, **settings)
    limits = ThinkingLimits(min_tokens, max_tokens)
    limited = generate(model, tokenizer, prompts, thinking=limits, **settings)

    assert min(count_all(tokenizer, free)) < min_tokens, "the case is not covered: no thought ended early"
    assert min(count_all(tokenizer, limited)) >= min_tokens
    assert max_tokens is None or max(count_all(tokenizer, limited)) <= max_tokens


def test_a_completion_is_not_decoded_for_each_of_its_tokens(tiny, monkeypatch):
    """With hundreds of rows that takes longer than the model does on a GPU."""
    model, tokenizer = tiny
    decode = tokenizer.decode
    calls = []
    monkeypatch.setattr(tokenizer, "decode", lambda ids: calls.append(ids) or decode(ids))

    prompts = [encode_text(tokenizer, f"What is {i} * 7?") for i in range(8)]
    start = encode_text(tokenizer, "<think>")
    limits = ThinkingLimits(max_tokens=30)
    settings = {"max_new_tokens": 100, "temperature": 1.0, "thinking": limits, "prefixes": [start] * len(prompts)}
    sequences = generate(model, tokenizer, prompts, **settings)

    assert any(any(sequence.forced[len(start) :]) for sequence in sequences), "no thought reached the maximum"
    assert len(calls) < sum(len(sequence.ids) for sequence in sequences) / 2


@pytest.mark.parametrize(
    ("text", "thinking_tokens"),
    [
        ("<think></think>\n\\boxed{4}", 0),
        ("\\boxed{4}", 0),
        ("<think>25</think>\n\\boxed{4}", 2),
        ("<think>257", 3),
    ],
)
def test_thinking_tokens_are_those_between_the_tags(tiny, text, thinking_tokens):
    _, tokenizer = tiny
    assert count_thinking_tokens(tokenizer, encode_text(tokenizer, text)) == thinking_tokens
