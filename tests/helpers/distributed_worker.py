"""One of the processes of test_distributed.py: trains every case of a JSON file.

Usage: distributed_worker.py CASES RESULTS, by a launcher; the first process writes RESULTS.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback
from trl import SFTTrainer

from helpers.training import FORGET, KEEP, config, train
from letgo import LWFTrainer, processes
from letgo.errors import InputError


def fsdp_on_the_cpu():
    """Let accelerate use FSDP over gloo.

    It uses the FSDP settings only if there are GPUs, and falls back to data parallelism
    without a warning; everything after that works on the CPU too.
    """
    prepare = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        prepare(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp


class Stop(TrainerCallback):
    """Stops after a step, with a checkpoint."""

    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.at


def run(case, folder):
    """Kind of distribution, final weights and log of one case, or the trainer's error message."""
    at, resume = case.pop("interrupted_at", None), None
    kept = KEEP if case.pop("kept", False) else None
    try:
        if at:
            train(LWFTrainer, config(folder, **case), FORGET, callbacks=[Stop(at)], keep=kept)
            resume = str(folder / f"checkpoint-{at}")
        if case.pop("trl", False):
            trainer = train(SFTTrainer, config(folder, **case))
        else:
            trainer = train(LWFTrainer, config(folder, **case), FORGET, resume=resume, keep=kept)
    except InputError as error:
        return {"refused": str(error)}
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped)  # of all processes together
    return {
        "kind": accelerator.distributed_type.value,
        "processes": accelerator.num_processes,
        "weights": state,
        "log": trainer.state.log_history,
        "steps": list(map(int, trainer.plan.steps)) if isinstance(trainer, LWFTrainer) else [],
    }


def main():
    """Train the cases one after the other."""
    cases, results = map(Path, sys.argv[1:])
    fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if fsdp:
        fsdp_on_the_cpu()
    trained = {
        name: run(case, results.parent / name)
        for name, case in json.loads(cases.read_text()).items()
    }
    if int(os.environ["RANK"]) == 0:
        torch.save(trained, results)
    processes.shutdown()
    if (
        fsdp
    ):  # DTensor's caches keep the process group alive, and Python may not exit before its threads
        os._exit(0)
    tasks = Path("/proc/self/task")  # on Linux
    left = [name for task in tasks.glob("*/comm") if "gloo" in (name := task.read_text())]
    assert not left, left


if __name__ == "__main__":
    main()
