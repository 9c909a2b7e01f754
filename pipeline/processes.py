"""Several processes at one run, which torchrun or `accelerate launch` starts: who does what.

All go the same way through the same code, so that all decide alike. What reads or writes the run's folder is done by
the main process, and the others are told what came of it (:func:`by_main`). Decoding is dealt out by prompt and its
samples gathered (generate.py); training is the trainer's own (DDP). One process is the case of one.
"""

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def state() -> Any:
    """accelerate's account of the processes: ``num_processes``, ``process_index``, ``device``."""
    import torch
    from accelerate import PartialState

    # The others wait while the main one fetches a base or hashes it.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(hours=6))


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
