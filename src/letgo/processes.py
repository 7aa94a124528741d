"""Several processes, started by `accelerate launch`, that share the work of one command."""

import gc
import os
from functools import cache

import torch
from accelerate import PartialState


@cache
def state() -> PartialState:
    """The processes of this command; a single one unless a launcher started more."""
    return PartialState(cpu=not torch.accelerator.is_available())


def several() -> bool:
    """Whether a launcher started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that writes and tells."""
    return not several() or bool(state().is_main_process)


def wait() -> None:
    """Go on when all processes have come here."""
    if several():
        state().wait_for_everyone()


def share() -> tuple[int, int]:
    """(which process this is, how many there are)."""
    return (state().process_index, state().num_processes) if several() else (0, 1)


def shutdown() -> None:
    """Part from the other processes, at the end of the work.

    An interpreter that ends beside a thread of gloo's which has not let go of its last tensor yet
    aborts. These threads end with their process group, and trainers in reference cycles hold it.
    """
    if several():
        wait()
        gc.collect()
        state().destroy_process_group()
