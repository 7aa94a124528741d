"""Run the cells of a study as tasks of a Ray cluster (`letgo study --engine ray`)."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from letgo.errors import InputError
from letgo.progress import Progress, log
from letgo.study.plan import Cell, Study
from letgo.study.runner import FOREVER, TIME_IS_UP, finish, start

SECONDS_TO_END = 60.0  # that interrupted runs are waited for


class RayRunner:
    """Runs cells on a cluster until a deadline or Ctrl-C, as `cells.Runner` does on one machine.

    The machines must have letgo, and see the study's folder and the data under the same names.

    Args:
        root: the study's folder.
        study: what it says.
        jobs: how many run at once on each machine, each with a share of its cores, and with a GPU
            where the cluster has any.
        seconds: until the deadline.
        keep_models: whether the models stay when a cell is done.

    Raises:
        InputError: there is no cluster.
    """

    def __init__(self, root: Path, study: Study, jobs: int, seconds: float, keep_models: bool):
        self.root, self.study, self.keep_models = root.resolve(), study, keep_models
        self.deadline = time.monotonic() + seconds
        _connect()
        # A second attempt would share its folder with one whose machine is only out of sight.
        self.task = ray.remote(**_share(jobs), max_retries=0)(_run)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Cells as they end, with None or what went wrong in a line.

        Those that the deadline has left undone do not come.
        """
        waiting = {self._submit(cell): cell for cell in cells}
        progress = Progress("study", len(cells))
        try:
            while waiting and (left := self.deadline - time.monotonic()) > 0:
                ended, _ = ray.wait(list(waiting), timeout=min(left, FOREVER))
                for task in ended:
                    progress.step()
                    yield waiting.pop(task), _error(task)
            if waiting:
                log.info(TIME_IS_UP)
        finally:
            progress.close()
            if waiting:
                _interrupt(list(waiting))

    def _submit(self, cell: Cell) -> Any:
        flags = self.study.flags(cell)
        return self.task.remote(self.root, cell, flags, self.keep_models, Path.cwd())


def _interrupt(tasks: list[Any]) -> None:
    """End tasks as Ctrl-C would, and see them end."""
    for task in tasks:
        ray.cancel(task)
    ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_END)


def _connect() -> None:
    """Join the cluster of this process, of $RAY_ADDRESS, or the one that runs here."""
    if ray.is_initialized():
        return
    try:
        ray.init("auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            "--engine ray: no Ray cluster answers; start one by `ray start --head`, "
            "or name one in RAY_ADDRESS"
        ) from error


def _share(jobs: int) -> dict[str, float]:
    """What a run asks of a machine: a share of the smallest one's cores, and of GPUs one."""
    gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    kind = "GPU" if gpus else "CPU"
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = min(machine.get("CPU", 1.0) for machine in machines if machine.get(kind))
    return {"num_cpus": max(1.0, cores // jobs), "num_gpus": gpus}


def _run(
    root: Path, cell: Cell, flags: dict[str, Any], keep_models: bool, here: Path
) -> str | None:
    """The task: a cell's `letgo run` on a machine of the cluster."""
    os.chdir(here)  # data may be named as seen from where the study was begun
    # Ray keeps interrupts from its workers, and so from what they start.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    process = start(root, cell, flags, None)  # Ray has said how many threads
    try:
        # Ray's interrupt is not a signal: it ends only a wait that looks up now and then.
        status = process.wait(timeout=FOREVER)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    return finish(root, cell, status, keep_models)


def _error(task: Any) -> str | None:
    """What a task returns; where Ray could not run it, why, in a line."""
    try:
        error: str | None = ray.get(task)
    except RayError as failure:
        return (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
    return error
