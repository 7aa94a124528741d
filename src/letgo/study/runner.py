"""Run the cells of a study, each a `letgo run` in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import yaml

from letgo.errors import InputError, first_line
from letgo.progress import Progress, log
from letgo.run.folder import Row
from letgo.run.lock import exclusive
from letgo.study.cells import folder_of, log_of, write_cell
from letgo.study.plan import Cell, Study

MODEL_FOLDERS = ("model", "lwf", "probe")  # gigabytes that the results do not need
SECONDS_BETWEEN_LOOKS = 1.0
LONGEST_WAIT = 1e9  # seconds; longer timeouts overflow in `threading`
TIME_IS_UP = "study: time is up; run the same command again to continue"


def start(root: Path, cell: Cell, flags: Row, threads: int | None) -> subprocess.Popen[bytes]:
    """Start or resume a cell's `letgo run` with these flags; None threads: torch's default."""
    folder = folder_of(root, cell)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_name(f"{folder.name}.yaml")
    config.write_text(yaml.safe_dump(flags, sort_keys=False))
    command = [sys.executable, "-m", "letgo", "run", "--config", str(config)]
    command += ["--output_dir", str(folder), "--shared", str(root / "shared")]
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with log_of(root, cell).open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, env={**environment, **os.environ}
        )


def finish(root: Path, cell: Cell, status: int, keep_models: bool) -> str | None:
    """Write the file of a cell whose process has ended, and remove its models.

    Args:
        status: exit status of the process; negative for the signal that ended it.

    Returns:
        None, or an error message of one line.
    """
    if status < 0:
        name = signal.Signals(-status).name
        # The system kills a process by SIGKILL when memory runs out; its log does not show that.
        advice = " (often out of memory: lower --jobs)" if name == "SIGKILL" else ""
        return f"ended by {name}{advice}; run the study again to resume"
    if status:
        lines = log_of(root, cell).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with status {status}"
    write_cell(root, cell)
    if not keep_models:
        remove_models(root, cell)
    return None


def remove_models(root: Path, cell: Cell) -> None:
    """Remove the models of a finished cell; its study was perhaps killed before it did."""
    for name in MODEL_FOLDERS:
        shutil.rmtree(folder_of(root, cell) / name, ignore_errors=True)


class Runner:
    """Runs cells in processes until a deadline or Ctrl-C, which interrupt the running ones.

    Args:
        root: the study's folder.
        study: the study.
        jobs: number of cells that run at once.
        seconds: time until the deadline.
        keep_models: whether to keep the models of finished cells.
    """

    def __init__(self, root: Path, study: Study, jobs: int, seconds: float, keep_models: bool):
        self.root, self.study, self.jobs, self.keep_models = root, study, jobs, keep_models
        self.deadline = time.monotonic() + seconds
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()
        # A shell starts background jobs (&) with Ctrl-C ignored, and cells would inherit that.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Cells as they end, with None or an error message; without those the deadline cut off."""
        with ThreadPoolExecutor(self.jobs) as pool:
            waiting = {pool.submit(self._run, cell): cell for cell in cells}
            progress = Progress("study", len(cells))
            try:
                seconds = self.deadline - time.monotonic()
                for future in as_completed(waiting, min(seconds, LONGEST_WAIT)):
                    progress.step()
                    error = future.result()
                    if not self.stopped.is_set():
                        yield waiting[future], error
            except TimeoutError:
                log.info(TIME_IS_UP)
            finally:
                progress.close()
                self.stopped.set()
                for process in list(self.running):
                    process.send_signal(signal.SIGINT)

    def _run(self, cell: Cell) -> str | None:
        self._wait_for_others(cell)
        if self.stopped.is_set():
            return None
        threads = None if self.jobs == 1 else max(1, (os.cpu_count() or 1) // self.jobs)
        process = start(self.root, cell, self.study.flags(cell), threads)
        self.running.add(process)
        status = process.wait()
        self.running.discard(process)
        try:
            return finish(self.root, cell, status, self.keep_models)
        except Exception as error:  # no error of one cell may stop the others
            return f"{type(error).__name__}: {first_line(error)}"

    def _wait_for_others(self, cell: Cell) -> None:
        """Wait until the run of a study that was killed, which goes on alone, has ended."""
        waits = False
        while not self.stopped.is_set():
            try:
                with exclusive(folder_of(self.root, cell), "letgo study"):
                    return
            except InputError as error:
                if not waits:
                    log.info("%s: waiting, as %s", cell.name, str(error).partition(";")[0])
                waits = True
                self.stopped.wait(SECONDS_BETWEEN_LOOKS)
