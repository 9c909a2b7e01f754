"""What a model computes inside: hidden states at a token, log-probabilities of labels, and linear probes of states."""

from collections.abc import Sequence

import numpy as np
import torch

from data.files import UserError
from pipeline.generate import prefill
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
            ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            for i, row in enumerate(batch):
                ids[i, : len(row)] = torch.tensor(row)

            # What follows a token does not change its state, so the padding at the end needs no mask.
            output = model(ids.to(model.device), output_hidden_states=True, logits_to_keep=1, use_cache=False)
            ends = [len(row) - 1 for row in batch]
            layers = torch.stack([layer[range(len(batch)), ends] for layer in output.hidden_states], dim=1)
            states.append(layers.float().cpu().numpy())
            on_progress(len(batch), len(batch))
    return np.concatenate(states)


@torch.no_grad()
def compute_label_logprobs(model, tokenizer, prompts: Sequence[str], labels: Sequence[str], label: str) -> np.ndarray:
    """Return the log-probability (nats) that each prompt goes on with each label's first token: (prompts, labels).

    Raises:
        UserError: Two labels begin with the same token.
    """
    firsts = [encode_text(tokenizer, text)[0] for text in labels]
    if len(set(firsts)) < len(firsts):
        raise UserError(f"labels {', '.join(map(repr, labels))}: two begin with the same token of this base")

    rows = [encode_text(tokenizer, prompt) for prompt in prompts]
    # Prompts of like length together: padding costs as much as text.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logprobs = np.empty((len(rows), len(labels)))
    with progress_bar(label, len(rows), "prompts") as on_progress:
        for start in range(0, len(rows), ROWS):
            batch = order[start : start + ROWS]
            _, _, logits = prefill(model, [rows[i] for i in batch])
            logprobs[batch] = torch.log_softmax(logits.float(), dim=-1)[:, firsts].cpu().numpy()
            on_progress(len(batch), len(batch))
    return logprobs


def probe(states: np.ndarray, targets: np.ndarray, others: np.ndarray, penalty: float) -> np.ndarray:
    """Return the targets (other examples, targets) that a ridge regression predicts from other states.

    Args:
        states: (examples, size), that it is fitted on.
        targets: (examples, targets): numbers, or an indicator of each class.
        others: (other examples, size).
        penalty: Of the squared weights, for states whose features have a variance of 1.
    """
    mean = states.mean(0)
    scale = states.std(0) + 1e-6
    features = (states - mean) / scale
    offset = targets.mean(0)

    # The same weights either way; the smaller system is the faster one.
    if len(features) < features.shape[1]:
        gram = features @ features.T + penalty * np.eye(len(features))
        weights = features.T @ np.linalg.solve(gram, targets - offset)
    else:
        gram = features.T @ features + penalty * np.eye(features.shape[1])
        weights = np.linalg.solve(gram, features.T @ (targets - offset))
    return (others - mean) / scale @ weights + offset
