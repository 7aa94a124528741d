"""Run the cells of a study as tasks of a Ray cluster (`letgo study --engine ray`)."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError

from letgo.errors import InputError
from letgo.progress import Progress, log
from letgo.run.folder import Row
from letgo.study.plan import Cell, Study
from letgo.study.runner import LONGEST_WAIT, TIME_IS_UP, Runner, finish, start

SECONDS_TO_END = 60.0  # granted to interrupted runs


class RayRunner(Runner):
    """Runs cells on a Ray cluster, with the arguments of `Runner`.

    All machines need letgo, and the study's folder and the data under the same paths. On each of
    them `jobs` cells run at once, each with a share of its cores, and a GPU if the cluster has any.

    Raises:
        InputError: there is no cluster.
    """

    def __init__(self, root: Path, study: Study, jobs: int, seconds: float, keep_models: bool):
        super().__init__(root.resolve(), study, jobs, seconds, keep_models)
        _connect()
        # No retries: a machine that is only unreachable may still be writing to the cell's folder.
        self.task = ray.remote(**_resources(jobs), max_retries=0)(_run)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """As `Runner.run`."""
        waiting = {
            self.task.remote(self.root, c, self.study.flags(c), self.keep_models, Path.cwd()): c
            for c in cells
        }
        progress = Progress("study", len(cells))
        try:
            while waiting and (seconds := self.deadline - time.monotonic()) > 0:
                ended, _ = ray.wait(list(waiting), timeout=min(seconds, LONGEST_WAIT))
                for task in ended:
                    progress.step()
                    yield waiting.pop(task), _error(task)
            if waiting:
                log.info(TIME_IS_UP)
        finally:
            progress.close()
            for task in waiting:
                ray.cancel(task)  # as Ctrl-C would
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=SECONDS_TO_END)


def _connect() -> None:
    """Join this process's cluster, the one of $RAY_ADDRESS, or the one running on this machine."""
    if ray.is_initialized():
        return
    try:
        ray.init("auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        advice = "start one by `ray start --head`, or set RAY_ADDRESS"
        raise InputError(f"--engine ray: no Ray cluster answers; {advice}") from error


def _resources(jobs: int) -> dict[str, float]:
    """Resources of a run: its share of the cores of the smallest machine, and one GPU if any."""
    gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    device = "GPU" if gpus else "CPU"
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = min(machine.get("CPU", 1.0) for machine in machines if machine.get(device))
    return {"num_cpus": max(1.0, cores // jobs), "num_gpus": gpus}


def _run(root: Path, cell: Cell, flags: Row, keep_models: bool, directory: Path) -> str | None:
    """Ray task: a cell's `letgo run` on a machine of the cluster."""
    os.chdir(directory)  # paths of data are relative to where the study was started
    # Ray blocks interrupts in its workers, and the processes they start inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    process = start(root, cell, flags, None)  # Ray sets OMP_NUM_THREADS
    try:
        # Ray's interrupt is not a signal: only a wait with a timeout notices it.
        status = process.wait(timeout=LONGEST_WAIT)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    return finish(root, cell, status, keep_models)


def _error(task: "ray.ObjectRef[str | None]") -> str | None:
    """The task's error message or None; if Ray could not run it, the reason in one line."""
    try:
        error: str | None = ray.get(task)
    except RayError as failure:
        return (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
    return error
