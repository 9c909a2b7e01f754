"""States and label probabilities are the model's own, whatever they were computed with; probes find what is linear."""

import numpy as np
import pytest
import torch

from data.files import UserError
from pipeline.prompts import encode_text
from pipeline.studies.states import compute_label_logprobs, compute_states, probe


def test_states_are_those_of_each_row_alone(tiny):
    model, tokenizer = tiny
    rows = [encode_text(tokenizer, text) for text in ("What is 25?", "4", "25 * 4 = 100")]
    states = compute_states(model, rows, "test")
    assert states.shape == (3, model.config.num_hidden_layers + 1, model.config.hidden_size)

    for row, state in zip(rows, states, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([row]), output_hidden_states=True).hidden_states
        for layer, expected in zip(state, alone, strict=True):
            np.testing.assert_allclose(layer, expected[0, -1], atol=1e-4)


def test_label_probabilities_are_those_of_each_prompt_alone(tiny):
    model, tokenizer = tiny
    prompts = ["What is 25 * 4?", "8", "25 * 4 = 100"]
    logprobs = compute_label_logprobs(model, tokenizer, prompts, ["1", "2"], "test")
    for prompt, row in zip(prompts, logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([encode_text(tokenizer, prompt)])).logits[0, -1]
        expected = torch.log_softmax(logits, -1)[[encode_text(tokenizer, label)[0] for label in "12"]]
        np.testing.assert_allclose(row, expected, atol=1e-4)

    with pytest.raises(UserError, match="begin with the same token"):
        compute_label_logprobs(model, tokenizer, prompts, ["12", "13"], "test")


@pytest.mark.parametrize("size", [40, 200])
def test_a_probe_finds_classes_that_are_linear(size):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 150)
    states = rng.normal(size=(150, size))
    states[:, :30] += 5 * np.eye(3)[classes].repeat(10, axis=1)

    targets = np.eye(3)[classes]
    for known, low, high in ((targets[:100], 0.9, 1), (rng.permutation(targets[:100]), 0, 0.6)):
        predicted = probe(states[:100], known, states[100:], 1.0).argmax(-1)
        assert low < (predicted == classes[100:]).mean() <= high


def test_predictions_are_the_same_whichever_system_is_solved():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 29))
    targets = rng.normal(size=(30, 2))
    # Features that never change make it the wider system.
    wide = np.concatenate([states, np.zeros((40, 2))], axis=1)
    one, other = [probe(each[:30], targets, each[30:], 2.0) for each in (states, wide)]
    np.testing.assert_allclose(one, other, atol=1e-8)
