"""How many rows go through a model at once: measured, not guessed.

The batch of an optimizer step stays what it is; what does not fit the memory in one part is accumulated in more.
The trainer's own ``auto_find_batch_size`` makes the whole batch smaller with its parts (transformers 5.23), and GRPO
refuses it, so the parts are measured first.
"""

import torch
from accelerate.utils import find_executable_batch_size, gather_object

from data.files import UserError
from pipeline.generate import router_arguments

# Where a lack of memory is an error. On a CPU the kernel ends the process instead.
MEASURED_DEVICES = ("cuda",)


def find_micro_batch_size(model, rows: int, length: int) -> int:
    """Return the most rows that a model can train on at once; in several processes, in each of them.

    Args:
        model: Under a trainer of TRL, not trained yet.
        rows: Of a batch; the result divides them.
        length: Of a row, in tokens.

    Raises:
        UserError: Where not even one row fits the memory.
    """
    if model.device.type not in MEASURED_DEVICES:
        return rows

    size = rows

    def take_smaller_part() -> int:
        nonlocal size
        size = _find_smaller_divisor(rows, size)
        return size

    def train(size: int) -> int:
        _pass_forward_and_backward(model, size, length)
        return size

    try:
        found = find_executable_batch_size(train, starting_batch_size=rows, reduce_batch_size_fn=take_smaller_part)()
    except RuntimeError:
        # accelerate raises one of its own where no size is left; any other is not about memory.
        if size:
            raise
        found = 0

    model.zero_grad(set_to_none=True)
    found = min(gather_object([found]))
    if not found:
        raise UserError(
            f"memory: not even one row of {length} tokens fits in training; take a smaller base, or base.load=nf4"
        )
    return found


def _find_smaller_divisor(rows: int, size: int) -> int:
    """The largest divisor of ``rows`` below ``size``, 0 where there is none."""
    for divisor in range(size - 1, 0, -1):
        if rows % divisor == 0:
            return divisor
    return 0


def _pass_forward_and_backward(model, rows: int, length: int) -> None:
    """Do what a training step does with so many rows."""
    ids = torch.ones(rows, length, dtype=torch.long, device=model.device)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids,
        use_cache=False,
        fused_lm_head=True,
        **router_arguments(model),
    )
    output.log_probs.sum().backward()
