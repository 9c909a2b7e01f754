"""What a model computes inside: hidden states at a token, log-probabilities of labels, and linear probes of states."""

from collections.abc import Sequence

import numpy as np
import torch

from data.files import UserError
from pipeline.forward import prefill
from pipeline.progress import progress_bar
from pipeline.prompts import encode_text

ROWS = 32  # that go through the model at once


@torch.no_grad()
def compute_states(model, rows: Sequence[Sequence[int]], label: str) -> np.ndarray:
    """Return hidden states (rows, layers + 1, hidden size), each row's at its last token."""
    states = []
    with progress_bar(label, len(rows), "rows") as on_progress:
        for start in range(0, len(rows), ROWS):
            batch = rows[start : start + ROWS]
            states.append(compute_batch(model, batch))
            on_progress(len(batch), len(batch))
    return np.concatenate(states)


def compute_batch(model, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the hidden states of rows that go through the model at once."""
    count = len(rows)
    width = max(map(len, rows))
    ids = torch.zeros(count, width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)

    # What follows a token does not change its state, so the padding at the end needs no mask.
    output = model(
        ids.to(model.device),
        output_hidden_states=True,
        # Nobody reads the logits, and those of all tokens would take more memory than the states.
        logits_to_keep=1,
        use_cache=False,
    )

    ends = [len(row) - 1 for row in rows]
    layers = [layer[range(count), ends] for layer in output.hidden_states]
    # numpy has no bfloat16.
    states = torch.stack(layers, dim=1).float()
    return states.cpu().numpy()


@torch.no_grad()
def compute_label_logprobs(
    model,
    tokenizer,
    prompts: Sequence[str],
    labels: Sequence[str],
    label: str,
) -> np.ndarray:
    """Return the log-probability (nats) that each prompt goes on with each label's first token: (prompts, labels).

    Raises:
        UserError: Two labels begin with the same token.
    """
    firsts = [encode_text(tokenizer, text)[0] for text in labels]
    if len(set(firsts)) < len(firsts):
        named = ", ".join(map(repr, labels))
        raise UserError(f"labels {named}: two begin with the same token of this base")

    rows = [encode_text(tokenizer, prompt) for prompt in prompts]
    # Prompts of like length together: padding costs as much as text.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))

    logprobs = np.empty((len(rows), len(labels)))
    with progress_bar(label, len(rows), "prompts") as on_progress:
        for start in range(0, len(rows), ROWS):
            batch = order[start : start + ROWS]
            chosen = [rows[i] for i in batch]
            _, _, logits = prefill(model, chosen)

            # bfloat16 has too few digits for a sum over the vocabulary.
            all_logprobs = torch.log_softmax(logits.float(), dim=-1)
            logprobs[batch] = all_logprobs[:, firsts].cpu().numpy()
            on_progress(len(batch), len(batch))
    return logprobs


def probe(
    states: np.ndarray,
    targets: np.ndarray,
    others: np.ndarray,
    penalty: float,
) -> np.ndarray:
    """Return the targets (other examples, targets) that a ridge regression predicts from other states.

    Args:
        states: (examples, size), that it is fitted on.
        targets: (examples, targets): numbers, or an indicator of each class.
        others: (other examples, size).
        penalty: Of the squared weights, for states whose features have a variance of 1.
    """
    mean = states.mean(0)
    # A feature that never changes would be divided by 0.
    scale = states.std(0) + 1e-6
    features = (states - mean) / scale
    examples, size = features.shape

    # Without it the penalty would pull the predictions to 0, not to the mean.
    offset = targets.mean(0)
    centred = targets - offset

    # The same weights either way; the smaller system is the faster one.
    if examples < size:
        gram = features @ features.T
        ridge = penalty * np.eye(examples)
        weights = features.T @ np.linalg.solve(gram + ridge, centred)
    else:
        gram = features.T @ features
        ridge = penalty * np.eye(size)
        weights = np.linalg.solve(gram + ridge, features.T @ centred)

    other_features = (others - mean) / scale
    return other_features @ weights + offset
