"""How many rows go through the model at once: measured, not guessed. The batch of an optimizer step stays what it is;
what does not fit the memory in one part is accumulated in more.

The trainer's own ``auto_find_batch_size`` makes the whole batch smaller with its parts (transformers 5.23), and GRPO
refuses it; so the parts are tried first, by accelerate's ``find_executable_batch_size``.
"""

import torch
from accelerate.utils import find_executable_batch_size, gather_object

from data.records import BadInput
from pipeline.generate import unrouted

TRIED = ("cuda",)  # where a lack of memory is an error; a CPU's ends the process, by the kernel


def fitted(model, rows: int, length: int) -> int:
    """The most rows of ``length`` tokens, a divisor of ``rows``, with which ``model`` (under a trainer of TRL, not yet
    trained) goes forward and backward in memory; where there are several processes, in each of them."""
    if model.device.type not in TRIED:
        return rows
    part = rows

    def smaller() -> int:
        nonlocal part
        part = max((n for n in range(1, part // 2 + 1) if rows % n == 0), default=0)
        return part

    def attempt(size: int) -> int:
        ids = torch.ones(size, length, dtype=torch.long, device=model.device)
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            labels=ids,
            use_cache=False,
            fused_lm_head=True,
            **unrouted(model),
        )
        output.log_probs.sum().backward()
        return size

    try:
        found = find_executable_batch_size(attempt, starting_batch_size=rows, reduce_batch_size_fn=smaller)()
    except RuntimeError:
        if part:
            raise
        found = 0
    model.zero_grad(set_to_none=True)
    found = min(gather_object([found]))
    if not found:
        raise BadInput(
            f"not even one row of {length} tokens fits the memory in training; take a smaller base, or base.load=nf4"
        )
    return found
