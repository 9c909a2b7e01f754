"""Decoding agrees with model.generate, and sampling with the model's distribution."""

import random

import pytest
import torch

from data.problem import Problem
from pipeline.forward import token_logprobs
from pipeline.generate import TokenSequence, decode_text, find_stop_ids, generate, sample_tokens, to_completion
from pipeline.prompts import encode_prompt, encode_text


def make_prompts(tokenizer, count):
    rng = random.Random(0)
    questions = [f"What is {rng.randint(1, 999)}{' * 7' * rng.randint(0, 4)}?" for _ in range(count)]
    problems = [Problem("x", question, "1", "number") for question in questions]
    return [encode_prompt(tokenizer, problem, "think") for problem in problems]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_greedy_equals_model_generate(tiny, batch_size):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 12)
    sequences = generate(model, tokenizer, prompts, max_new_tokens=24, batch_size=batch_size)

    for prompt, sequence in zip(prompts, sequences, strict=True):
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert sequence.ids == whole[0, len(prompt) :].tolist()


def test_callbacks_get_every_sequence_and_all_progress(tiny):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 12)
    finished, progress = {}, []

    sequences = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=24,
        batch_size=5,
        on_sequence_end=finished.__setitem__,
        on_progress=lambda items, units: progress.append((items, units)),
    )

    assert [finished[i] for i in range(12)] == sequences
    assert sum(items for items, _ in progress) == 12
    assert sum(units for _, units in progress) == sum(len(sequence.ids) for sequence in sequences)


def test_rows_that_finish_early_leave_the_others_unchanged(tiny):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 64)
    sequences = generate(model, tokenizer, prompts, max_new_tokens=150, temperature=1.0, seed=3)

    finishes = {sequence.finish for sequence in sequences}
    assert finishes == {"stop", "length"}, "the case is not covered: no row ended early"

    for prompt, sequence in zip(prompts, sequences, strict=True):
        expected = token_logprobs(model, prompt, sequence.ids)
        torch.testing.assert_close(torch.tensor(sequence.logprobs), expected, atol=1e-4, rtol=0)


def test_what_is_sampled_does_not_depend_on_the_batches(tiny):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 20)
    settings = {"max_new_tokens": 30, "temperature": 1.0, "seed": 3}

    together = [sequence.ids for sequence in generate(model, tokenizer, prompts, **settings)]
    apart = [sequence.ids for sequence in generate(model, tokenizer, prompts, batch_size=3, **settings)]

    assert apart == together
    assert len({tuple(ids) for ids in together}) == len(together)


def test_sampling_follows_the_distribution(tiny):
    model, tokenizer = tiny
    [prompt] = make_prompts(tokenizer, 1)
    count = 4000
    settings = {"max_new_tokens": 1, "temperature": 1.0, "batch_size": count}

    first = [sequence.ids[0] for sequence in generate(model, tokenizer, [prompt] * count, **settings)]
    again = [sequence.ids[0] for sequence in generate(model, tokenizer, [prompt] * count, **settings)]
    assert first == again

    frequencies = torch.bincount(torch.tensor(first), minlength=len(tokenizer)) / count
    expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)[: len(frequencies)]
    assert (frequencies - expected).abs().max() < 0.04


def make_odd_logits(vocabulary):
    """Random logits of 200 rows, many without any weight, and a row with all of it on the last token."""
    logits = torch.randn(200, vocabulary, generator=torch.Generator().manual_seed(0)) * 4
    logits[:, ::3] = -1e4
    logits[0] = -1e4
    logits[0, -1] = 0.0
    return logits


@pytest.mark.parametrize("vocabulary", [5, 128, 300, 49152])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_token_is_where_the_cumulative_distribution_passes_the_number(vocabulary, temperature):
    logits = make_odd_logits(vocabulary)
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(1))
    uniforms[1:4] = torch.tensor([0.0, 1 - 2**-24, 1 - 2**-24])
    chosen, logprobs = sample_tokens(logits, temperature, uniforms)

    exact = torch.log_softmax(logits.double() / temperature, -1)
    expected = exact.gather(-1, chosen[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, atol=3e-5, rtol=0)
    assert logprobs.isfinite().all()

    above = exact.exp().cumsum(-1).gather(-1, chosen[:, None])[:, 0]
    below = above - expected.exp()
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= above + 1e-6).all()

    assert chosen[0] == vocabulary - 1
    assert len(set(chosen.tolist())) > min(vocabulary // 3, 20)


def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary():
    chosen, _ = sample_tokens(torch.full((2, 300), torch.nan), 1.0, torch.tensor([0.3, 0.9]))
    assert (chosen >= 0).all()
    assert (chosen < 300).all()


def test_a_prefix_is_forced_and_counts(tiny):
    model, tokenizer = tiny
    prefix = encode_text(tokenizer, "<think>")
    [prompt] = make_prompts(tokenizer, 1)
    [sequence] = generate(model, tokenizer, [prompt], max_new_tokens=6, prefixes=[prefix])

    assert sequence.ids[: len(prefix)] == prefix
    assert sequence.forced == [True] * len(prefix) + [False] * (len(sequence.ids) - len(prefix))
    assert len(sequence.ids) <= 6


def test_tags_survive_decoding_and_the_end_of_turn_does_not(tiny):
    model, tokenizer = tiny
    ids = [*encode_text(tokenizer, "<think>25</think>\n4"), tokenizer.eos_token_id]
    stops = find_stop_ids(model, tokenizer)
    assert decode_text(tokenizer, ids, stops) == "<think>25</think>\n4"

    problem = Problem("p", "q", "4", "number")
    completion = to_completion(tokenizer, problem, TokenSequence(ids, finish="stop"), stops, prompt_tokens=9)
    assert (completion.id, completion.prompt_tokens, completion.finish) == ("p", 9, "stop")
    assert (completion.thinking_tokens, completion.answer_tokens) == (2, len(ids) - 2)
