"""A linear probe on what the base knows before it thinks: whether the answer given at once would be right.

The base is frozen and has no adapter; the probe reads its hidden state at the last token of the question and is a
logistic regression (linear probes: G. Alain and Y. Bengio 2016, arXiv 1610.01644; that models can tell what they know:
S. Kadavath et al. 2022, arXiv 2207.05221). As a way to choose between thinking and not it needs no training of the
model, so it is what a learnt choice has to beat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from eval.tradeoff import auroc

DECAY = 1.0  # of the squared weights, beside the summed loss of a few hundred problems


@torch.no_grad()
def states(
    model, prompts: Sequence[Sequence[int]], batch_size: int = 32, advance: Callable[[int, int], None] = lambda *_: None
) -> torch.Tensor:
    """The hidden states at the last token of each prompt: (prompts, layers + 1, width), float32. An adapter on the
    model must be off. ``advance(prompts, tokens)`` is called as batches are done."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(rows):
            ids[row, : len(prompts[i])] = torch.tensor(prompts[i])
            mask[row, : len(prompts[i])] = 1
        device = model.device
        hidden = model(
            ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, logits_to_keep=1
        ).hidden_states
        last = mask.sum(-1) - 1
        stacked = torch.stack([layer[torch.arange(len(rows)), last].float().cpu() for layer in hidden], dim=1)
        for row, i in enumerate(rows):
            found[i] = stacked[row]
        advance(len(rows), int(mask.sum()))
    return torch.stack(found)


@dataclass(frozen=True)
class Probe:
    """A logistic regression on one layer: ``layer`` counts from the embeddings, 0."""

    layer: int
    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The probability (n,) that the answer at once is right, of hidden states (n, layers + 1, width)."""
        return torch.sigmoid((hidden[:, self.layer] - self.mean) / self.scale @ self.weight + self.bias)


def fit(hidden: torch.Tensor, right: torch.Tensor, layer: int) -> Probe:
    """The probe of one layer, from hidden states (n, layers + 1, width) and whether the answer was right (n,)."""
    inputs, wanted = hidden[:, layer], right.float()
    mean, scale = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    inputs = (inputs - mean) / scale
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight + bias
        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        total = total + DECAY * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[arg-type]
    return Probe(layer, mean, scale, weight.detach(), bias.detach())


def best(
    hidden: torch.Tensor, right: torch.Tensor, dev_hidden: torch.Tensor, dev_right: torch.Tensor, each: int = 3
) -> Probe:
    """The probe, of every ``each``-th layer and the last, that orders dev best."""
    last = hidden.shape[1] - 1
    probes = [fit(hidden, right, layer) for layer in sorted({*range(each, last, each), last})]
    return max(probes, key=lambda probe: auroc(probe(dev_hidden).tolist(), dev_right.tolist()) or 0.0)
