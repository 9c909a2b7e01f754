"""Several processes at one run, started by torchrun or `accelerate launch`: who does what.

All processes go the same way through the same code. The main process alone reads and writes the run's folder, and
tells the others what came of it (:func:`on_main_process`). Decoding is shared by prompt and gathered at the end
(generate.py); training is the trainer's own (DDP). A single process is the case of one.
"""

import contextlib
import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data.command_line import INTERRUPTED

T = TypeVar("T")

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA; AMD; either under WSL


def get_state() -> Any:
    """Return accelerate's view of the processes: ``num_processes``, ``process_index``, ``device``."""
    import torch
    from accelerate import PartialState

    # The others wait this long while the main process downloads a base or hashes it.
    timeout = datetime.timedelta(hours=6)
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)


def count_gpus() -> int:
    """Return how many GPUs torch sees."""
    # Importing torch takes longer than most commands, so it is not asked where the system has no GPU at all.
    if not any(Path(device).exists() for device in GPU_DEVICES):
        return 0

    import torch

    return torch.cuda.device_count()


def is_main() -> bool:
    """Return whether this is the main process."""
    return get_state().is_main_process


def is_shared() -> bool:
    """Return whether several processes were started for this run, without importing torch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def on_main_process(make: Callable[[], T]) -> T:
    """Call ``make`` in the main process and return its result in all processes; what it raises, all raise.

    The others wait meanwhile, so ``make`` must not need them (it must not decode or train).
    """
    from accelerate.utils import broadcast_object_list

    if get_state().num_processes == 1:
        return make()

    # An error goes the same way, or the others would wait for ever.
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error

    broadcast_object_list(outcome)
    result, failure = outcome
    if failure:
        raise failure
    return result


def disconnect() -> None:
    """Let the processes part in order: one that ends while another still listens to it takes that one down."""
    state = get_state()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()


def leave(status: int) -> NoReturn:
    """Exit with a status; after Ctrl-C by its signal, so that a loop of the shell ends, too."""
    if not is_shared():
        if status == INTERRUPTED:
            # The signal ends the interpreter at once.
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        sys.exit(status)

    # gloo's threads may abort the interpreter at its end (github.com/pytorch/pytorch/pull/179291), so one of several
    # processes leaves without it. All files are written by now.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def find_sharded_modules(model) -> list[Any]:
    """Return the modules whose weights FSDP2 has split over the processes; none elsewhere."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
def gather_weights(model) -> Iterator[None]:
    """Keep sharded weights whole in every process, so that each may go forward as often as it needs to."""
    modules = find_sharded_modules(model)

    # To gather them at each step, all processes would have to decode as many.
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()

    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def collect_trained_weights(model) -> dict[str, Any] | None:
    """Return the trained weights by name where FSDP2 has sharded them, else None: the model then has them whole.

    They are whole in the main process only, but all processes must call this.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if not find_sharded_modules(model):
        return None

    options = StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=True,
    )
    return get_model_state_dict(model, options=options)
