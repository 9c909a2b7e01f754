"""Several processes at one run, which torchrun or `accelerate launch` starts: who does what.

All go the same way through the same code, so that all decide alike. What reads or writes the run's folder is done by
the main process, and the others are told what came of it (:func:`by_main`). Decoding is dealt out by prompt and its
samples gathered (generate.py); training is the trainer's own (DDP). One process is the case of one.
"""

import contextlib
import datetime
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


def state() -> Any:
    """accelerate's account of the processes: ``num_processes``, ``process_index``, ``device``."""
    import torch
    from accelerate import PartialState

    # The others wait while the main one fetches a base or hashes it.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(hours=6))


def cards() -> int:
    """How many cards torch sees. Where the system has none of any maker (NVIDIA; AMD; either under WSL) torch, which
    takes longer to import than most commands to run, is not asked."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return 0
    import torch

    return torch.cuda.device_count()


def end() -> None:
    """Let the processes part in order: one that is gone while another still listens for it takes it down."""
    if state().num_processes > 1:
        state().wait_for_everyone()
        state().destroy_process_group()


def leave(status: int) -> NoReturn:
    """Exit. One of several processes does so past the interpreter's end, in which gloo's threads, should they still
    hold tensors, abort it (github.com/pytorch/pytorch/pull/179291); all it had to write is written."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main() -> bool:
    """Whether this is the main process."""
    return state().is_main_process


def by_main(make: Callable[[], T]) -> T:
    """What ``make`` gives in the main process, in all of them; what it raises, all raise. The others wait, so ``make``
    must do nothing for which it needs them (decode or train)."""
    from accelerate.utils import broadcast_object_list

    if state().num_processes == 1:
        return make()
    outcome: list[Any] = [None, None]
    if main():
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def sharded(model) -> list[Any]:
    """The modules whose weights FSDP2 has dealt out over the processes; none elsewhere."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
def gathered(model) -> Iterator[None]:
    """Sharded weights whole in every process, for as long as each goes forward as often as it needs to."""
    modules = sharded(model)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def trained_weights(model) -> dict[str, Any] | None:
    """The trained weights by name, whole, where FSDP2 has sharded them (in the main process; the others need to ask,
    too); None elsewhere, where the model has them itself."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if not sharded(model):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return get_model_state_dict(model, options=options)
