"""Run the cells of a study, each a `letgo run` in a process of its own."""

import math
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
from typing import Any

import pyarrow.parquet as pq
import yaml

from letgo.errors import first_line
from letgo.progress import Progress, log
from letgo.report.curves import read_curves
from letgo.run.folder import read_config, read_json, read_log, write_json
from letgo.study.plan import Cell, Study

HEAVY = ("model", "lwf", "probe")  # gigabytes that nothing is read from any more
FOREVER = 1e9  # seconds; waits of threads cannot be told of more
TIME_IS_UP = "study: time is up; the same command goes on where it stood"


def folder_of(root: Path, cell: Cell) -> Path:
    """The run folder of a cell."""
    return root / "cells" / cell.name


def answers_of(root: Path, cell: Cell) -> Path:
    """The file that results are made of: no texts, so that it may be passed on."""
    return root / "cells" / f"{cell.name}.json"


def log_of(root: Path, cell: Cell) -> Path:
    """What its `letgo run` says."""
    return root / "cells" / f"{cell.name}.log"


def is_done(root: Path, cell: Cell) -> bool:
    """Whether results have all that they need of a cell."""
    return answers_of(root, cell).exists()


def keep_answers(root: Path, cell: Cell) -> None:
    """Write `answers_of` a finished run, which says that it is done."""
    folder = folder_of(root, cell)
    columns = ["model", "set", "id", "correct", "reference_nll"]
    answers: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for row in pq.read_table(folder / "answers.parquet", columns=columns).to_pylist():
        by_id = answers.setdefault(row["model"], {}).setdefault(row["set"], {})
        nll = row["reference_nll"]
        right = None if row["correct"] is None else int(row["correct"])
        by_id[row["id"]] = [right, round(nll, 5) if math.isfinite(nll) else None]
    stages = read_json(folder / "stages.json")
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    logs = {
        "sft": read_log(folder / "probe" / "train_log.jsonl"),
        "method": read_log(folder / "train_log.jsonl"),
    }
    curves = {name: read_curves(lines).learning for name, lines in logs.items()}
    names = (
        "step",
        "unlearn/helpful",
        "unlearn/confidence",
        "unlearn/learning_norm",
        "unlearn/update",
    )
    rescored = [
        {name.removeprefix("unlearn/"): line.get(name) for name in names}
        for line in logs["method"]
        if "unlearn/helpful" in line
    ]
    kept = {
        "provenance": read_config(folder)["provenance"],
        "seconds": seconds,
        "curves": curves,
        "rescored": rescored,
        "answers": answers,
    }
    write_json(answers_of(root, cell), kept, indent=None)


def start(
    root: Path, cell: Cell, flags: dict[str, Any], threads: int | None
) -> subprocess.Popen[bytes]:
    """Begin a cell's `letgo run`, or go on with it where it was interrupted.

    Args:
        root: the study's folder.
        cell: the cell.
        flags: its settings (`Study.flags`).
        threads: how many it computes with; None: as many as torch likes.
    """
    folder = folder_of(root, cell)
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = folder.with_name(f"{cell.name}.yaml")
    given.write_text(yaml.safe_dump(flags, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "letgo",
        "run",
        "--config",
        str(given),
        "--output_dir",
        str(folder),
        "--shared",
        str(root / "shared"),
    ]
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with log_of(root, cell).open("wb") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=said, env={**environment, **os.environ}
        )


def finish(root: Path, cell: Cell, status: int, keep_models: bool) -> str | None:
    """Keep what results need of a cell whose process has ended.

    Args:
        root: the study's folder.
        cell: the cell.
        status: with which its process ended; negative: the signal that ended it.
        keep_models: whether its models stay.

    Returns:
        None, or what went wrong in a line.
    """
    if status < 0:
        name = signal.Signals(-status).name
        # what the system does where memory is short; the process cannot say so itself
        advice = "; if memory was short, give fewer --jobs" if name == "SIGKILL" else ""
        return f"ended by {name}{advice}; it goes on where it stood when the study is run again"
    if status:
        lines = log_of(root, cell).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with status {status}"
    keep_answers(root, cell)
    if not keep_models:
        for name in HEAVY:
            shutil.rmtree(folder_of(root, cell) / name, ignore_errors=True)
    return None


class Runner:
    """Runs cells until a deadline or Ctrl-C, which interrupt those that are running.

    An interrupted cell goes on where it stood when it is run again.

    Args:
        root: the study's folder.
        study: what it says.
        jobs: how many run at once.
        seconds: until the deadline.
        keep_models: whether the models stay when a cell is done.
    """

    def __init__(self, root: Path, study: Study, jobs: int, seconds: float, keep_models: bool):
        self.root, self.study, self.jobs, self.keep_models = root, study, jobs, keep_models
        self.deadline = time.monotonic() + seconds
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()
        # A shell lets what it begins with & ignore Ctrl-C, and cells would inherit that.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, str | None]]:
        """Cells as they end, with None or what went wrong in a line.

        Those that the deadline has left undone do not come.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            waiting = {pool.submit(self._run, cell): cell for cell in cells}
            progress = Progress("study", len(cells))
            try:
                left = self.deadline - time.monotonic()
                for future in as_completed(waiting, min(left, FOREVER)):
                    progress.step()
                    error = future.result()
                    if not self.stopped.is_set():
                        yield waiting[future], error
            except TimeoutError:
                log.info(TIME_IS_UP)
            finally:
                progress.close()
                self._stop()

    def _stop(self) -> None:
        self.stopped.set()
        for process in list(self.running):
            process.send_signal(signal.SIGINT)

    def _run(self, cell: Cell) -> str | None:
        if self.stopped.is_set():
            return None
        cores = (os.cpu_count() or 1) // self.jobs
        process = start(
            self.root, cell, self.study.flags(cell), None if self.jobs == 1 else max(1, cores)
        )
        self.running.add(process)
        status = process.wait()
        self.running.discard(process)
        try:
            return finish(self.root, cell, status, self.keep_models)
        except Exception as error:  # whatever it is, other cells go on
            return f"{type(error).__name__}: {first_line(error)}"


def clear_shared(root: Path, study: Study) -> None:
    """Remove shared fine-tuned models once no cell needs them any more."""
    if all(is_done(root, cell) for cell in study.cells()):
        for probe in (root / "shared").glob("probe-*"):
            if probe.is_dir():
                shutil.rmtree(probe)
