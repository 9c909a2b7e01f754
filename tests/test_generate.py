"""Decoding agrees with model.generate, and the thinking budget is exact."""

import random

import pytest
import torch

from data.records import Problem
from pipeline import prompts
from pipeline.generate import _choose, common_prefix, count_tokens, generate, stop_ids, text_of
from pipeline.prompts import encode


def questions(tokenizer, count, shots=()):
    rng = random.Random(0)
    texts = [f"What is {rng.randint(1, 999)}{' * 7' * rng.randint(0, 4)}?" for _ in range(count)]
    return [prompts.prompt_ids(tokenizer, Problem("x", text, "1", "number"), "think", shots) for text in texts]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_greedy_equals_model_generate(tiny, batch_size):
    model, tokenizer = tiny
    asked = questions(tokenizer, 12)
    ours = generate(model, tokenizer, asked, max_tokens=24, batch_size=batch_size)
    for prompt, sample in zip(asked, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        assert sample.ids == theirs


def test_every_sample_is_handed_over_as_it_finishes(tiny):
    model, tokenizer = tiny
    asked, handed = questions(tokenizer, 12), {}
    samples = generate(model, tokenizer, asked, max_tokens=24, batch_size=5, finished=handed.__setitem__)
    assert [handed[i] for i in range(12)] == samples


def test_rows_that_finish_early_leave_the_others_unchanged(tiny):
    model, tokenizer = tiny
    asked = questions(tokenizer, 64)
    free = generate(model, tokenizer, asked, max_tokens=150, temperature=1.0, seed=3)
    assert {s.finish for s in free} == {"stop", "length"}, "the case is not covered: no row ended early"
    for prompt, sample in zip(asked, free, strict=True):
        logits = model(torch.tensor([prompt + sample.ids])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)


def test_what_is_sampled_does_not_depend_on_the_batches(tiny):
    model, tokenizer = tiny
    asked = questions(tokenizer, 20)
    settings = {"max_tokens": 30, "temperature": 1.0, "seed": 3}
    whole = generate(model, tokenizer, asked, **settings)
    assert [s.ids for s in generate(model, tokenizer, asked, batch_size=3, **settings)] == [s.ids for s in whole]
    assert len({tuple(s.ids) for s in whole}) == len(whole)


def test_sampling_follows_the_distribution(tiny):
    model, tokenizer = tiny
    prompt = questions(tokenizer, 1)[0]
    samples = generate(model, tokenizer, [prompt] * 4000, max_tokens=1, temperature=1.0, batch_size=4000)
    seen = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=len(tokenizer)) / 4000
    wanted = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)[: len(seen)]
    assert (seen - wanted).abs().max() < 0.04
    again = generate(model, tokenizer, [prompt] * 4000, max_tokens=1, temperature=1.0, batch_size=4000)
    assert [s.ids for s in again] == [s.ids for s in samples]


def byte_tokenizer(**special):
    """Character-like tokens: every tag takes several, and a token may hold the end of one and the start of another."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|end|>", *alphabet, "th", "in", "></", "k>"])}
    merges = [("t", "h"), ("i", "n"), ("<", "/"), ("k", ">"), (">", "</")]
    vocabulary["</"] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template="x", **special)


def half_special_tokenizer():
    """The opening tag is one token, as in Qwen3; the closing one is not."""
    return byte_tokenizer(additional_special_tokens=["<think>"])


@pytest.mark.parametrize("vocabulary", [5, 128, 300, 49152])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_token_is_that_at_which_the_cumulative_distribution_passes_the_number(vocabulary, temperature):
    logits = torch.randn(200, vocabulary, generator=torch.Generator().manual_seed(0)) * 4
    logits[:, ::3] = -1e4  # no weight at all
    logits[0], logits[0, -1] = -1e4, 0.0  # all of it on the last
    numbers = torch.rand(200, generator=torch.Generator().manual_seed(1))
    numbers[1:4] = torch.tensor([0.0, 1 - 2**-24, 1 - 2**-24])
    chosen, logprobs = _choose(logits, temperature, numbers)
    exact = torch.log_softmax(logits.double() / temperature, -1)
    torch.testing.assert_close(logprobs.double(), exact.gather(-1, chosen[:, None])[:, 0], atol=1e-5, rtol=0)
    above = exact.exp().cumsum(-1).gather(-1, chosen[:, None])[:, 0]
    below = above - exact.gather(-1, chosen[:, None])[:, 0].exp()
    assert (below - 1e-6 <= numbers).all() and (numbers <= above + 1e-6).all() and logprobs.isfinite().all()
    assert chosen[0] == vocabulary - 1 and len(set(chosen.tolist())) > min(vocabulary // 3, 20)
    broken, _ = _choose(torch.full((2, vocabulary), torch.nan), temperature, numbers[:2])
    assert (broken >= 0).all() and (broken < vocabulary).all()  # nothing to draw from, and no crash


@pytest.mark.parametrize("tags", ["special", "bytes", "half"])
def test_the_budget_is_exact_over_a_thousand_completions(tiny, tags):
    """Three tokenizers whose tags split differently, seven budgets; the model is untrained, so it writes anything."""
    model, tokenizer = tiny
    tokenizer = {"special": tokenizer, "bytes": byte_tokenizer(), "half": half_special_tokenizer()}[tags]
    asked = [encode(tokenizer, f"{i} + {i * i} = ?") for i in range(48)]
    total = cut = 0
    for budget in (0, 1, 2, 5, 7, 12, 16):
        start = [] if budget == 0 else encode(tokenizer, "<think>")
        samples = generate(
            model,
            tokenizer,
            asked,
            max_tokens=60,
            temperature=1.0,
            seed=budget,
            budget=budget,
            prefixes=[start] * len(asked),
            batch_size=16,
        )
        spent = [count_tokens(tokenizer, s.ids)[0] for s in samples]
        assert max(spent) == budget
        closed = [s for s, n in zip(samples, spent, strict=True) if n == budget and any(s.forced[len(start) :])]
        assert all("</think>\n\\boxed{" in tokenizer.decode(s.ids) for s in closed)
        total, cut = total + len(samples), cut + len(closed)
    assert total == 336 and cut > 250  # with the other two, 1,008 completions


@pytest.mark.parametrize(("least", "budget"), [(5, None), (12, None), (12, 12), (9, 20)])
def test_a_thought_is_not_let_end_below_the_floor(tiny, least, budget):
    """Half of the rows begin just before the end of an empty thought, which a model would now close."""
    model, tokenizer = tiny
    asked = questions(tokenizer, 128)
    starts = ["<think>", "<think>\n2 + 2 = 4\n<"]
    prefixes = [encode(tokenizer, starts[i % 2]) for i in range(len(asked))]
    settings = {"max_tokens": 60, "temperature": 1.0, "prefixes": prefixes, "seed": 3}
    free = generate(model, tokenizer, asked, **settings)
    held = generate(model, tokenizer, asked, least=least, budget=budget, **settings)
    spent = [[count_tokens(tokenizer, s.ids)[0] for s in samples] for samples in (free, held)]
    assert min(spent[0]) < least <= min(spent[1]), "no thought ended early, or one still does"
    assert budget is None or max(spent[1]) <= budget


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("<think></think>\n\\boxed{4}", 0),
        ("\\boxed{4}", 0),
        ("<think>25</think>\n\\boxed{4}", 2),
        ("<think>257", 3),
    ],
)
def test_thinking_tokens_are_those_between_the_tags(tiny, text, thinking):
    _, tokenizer = tiny
    ids = encode(tokenizer, text)
    assert count_tokens(tokenizer, ids) == (thinking, len(ids) - thinking)


def test_common_prefix_leaves_each_prompt_a_token_of_its_own():
    assert common_prefix([(1, 2, 3), (1, 2, 4)]) == 2
    assert common_prefix([(1, 2), (1, 2, 4)]) == 1
    assert common_prefix([(7,)]) == 0


def test_the_tags_survive_decoding_and_the_end_of_turn_does_not(tiny):
    model, tokenizer = tiny
    ids = [*encode(tokenizer, "<think>2</think>"), tokenizer.eos_token_id]
    assert text_of(tokenizer, ids, stop_ids(model, tokenizer)) == "<think>2</think>"
