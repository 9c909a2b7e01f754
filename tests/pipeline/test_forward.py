"""Prompts computed together, with what they share computed once, give what each gives alone."""

import torch

from pipeline.forward import count_common_prefix, prefill


def test_prompts_together_give_the_logits_of_each_alone(tiny):
    model, _ = tiny
    # They share two tokens, differ in length, and two are the same.
    prompts = [[5, 6, 7], [5, 6, 8, 9, 10], [5, 6, 7]]
    with torch.no_grad():
        _, mask, logits = prefill(model, prompts)

        for prompt, row in zip(prompts, logits, strict=True):
            alone = model(torch.tensor([prompt])).logits[0, -1]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)
    assert mask.sum(-1).tolist() == [3, 5, 3]


def test_a_common_prefix_leaves_each_prompt_a_token_of_its_own():
    assert count_common_prefix([(1, 2, 3), (1, 2, 4)]) == 2
    assert count_common_prefix([(1, 2), (1, 2, 4)]) == 1
    assert count_common_prefix([(7,)]) == 0
