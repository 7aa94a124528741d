"""The processes of one command, if `accelerate launch` has started several."""

import gc
import os
from functools import cache

import torch
from accelerate import PartialState


@cache
def state() -> PartialState:
    """The process group of this command."""
    return PartialState(cpu=not torch.accelerator.is_available())


def several() -> bool:
    """Whether a launcher started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process writes files and prints."""
    return not several() or bool(state().is_main_process)


def wait() -> None:
    """Wait until every process has reached this call."""
    if several():
        state().wait_for_everyone()


def share() -> tuple[int, int]:
    """(index of this process, number of processes)."""
    return (state().process_index, state().num_processes) if several() else (0, 1)


def shutdown() -> None:
    """Leave the process group at the end of the work.

    If Python exits while a gloo thread still holds a tensor, the process aborts. These threads end
    with their process group, which trainers in reference cycles keep alive: hence the collection.
    """
    if several():
        wait()
        gc.collect()
        state().destroy_process_group()
