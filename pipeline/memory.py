"""How many rows go through a model at once: measured, not guessed.

The batch of an optimizer step stays what it is; what does not fit the memory in one part is accumulated in more.
The trainer's own ``auto_find_batch_size`` makes the whole batch smaller with its parts (transformers 5.23), and GRPO
refuses it, so the parts are measured first.
"""

from collections.abc import Mapping

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from data.files import UserError
from pipeline.forward import router_arguments
from pipeline.progress import say
from pipeline.slots import MEMORY_SHARE


def fit_batch(
    model,
    batch: Mapping[str, int],
    length: int,
    label: str,
) -> dict[str, int]:
    """Return the batch arguments of a trainer with as many rows at once as fit the memory; the batch is the same.

    Args:
        model: Under a trainer of TRL, not trained yet.
        batch: Its ``per_device_train_batch_size`` and ``gradient_accumulation_steps``.
        length: Of a row, in tokens.
        label: What is said is said of it.

    Raises:
        UserError: Where not even one row fits the memory.
    """
    # On a CPU a lack of memory is no error: the kernel ends the process.
    if model.device.type != "cuda":
        return dict(batch)

    # Decoding keeps its slots between the steps of a training.
    torch.cuda.set_per_process_memory_fraction(1 - MEMORY_SHARE)
    try:
        return find_largest_part(model, batch, length, label)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def find_largest_part(
    model,
    batch: Mapping[str, int],
    length: int,
    label: str,
) -> dict[str, int]:
    """Do what :func:`fit_batch` does, on any device whose lack of memory is an error."""
    rows = batch["per_device_train_batch_size"]
    divisors = [size for size in range(rows, 0, -1) if rows % size == 0]
    largest = next((size for size in divisors if _fits(model, size, length)), 0)
    # The trial passes must not count in the first step.
    model.zero_grad(set_to_none=True)

    # The other processes' GPUs may have less room.
    largest = min(gather_object([largest]))
    if not largest:
        raise UserError(
            f"memory: not even one row of {length} tokens fits in training; take a smaller base, or base.load=nf4"
        )

    if largest < rows:
        say(f"{label}: {rows} rows at once do not fit the memory; {largest} at a time, the batch is the same")
    steps = batch["gradient_accumulation_steps"] * rows // largest
    return {"per_device_train_batch_size": largest, "gradient_accumulation_steps": steps}


def _fits(model, rows: int, length: int) -> bool:
    """Whether a training step on so many rows does not lack memory."""
    clear_device_cache(garbage_collection=True)
    try:
        _pass_forward_and_backward(model, rows, length)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    return True


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
