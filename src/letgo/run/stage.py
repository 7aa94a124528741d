"""What a stage is: whole-or-absent outputs, and work that can be interrupted and resumed."""

import gc
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from letgo import processes
from letgo.errors import InputError
from letgo.progress import Progress, log
from letgo.run import sharing
from letgo.run.folder import Output, Row, read_json, write_json
from letgo.run.inputs import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A function from files to files.

    Args:
        name: also the command's name.
        outputs: what it leaves in the run folder.
        work: called with the run and a scratch folder; leaves `outputs` in that folder.
        inputs: what the outputs depend on, as plain values under their flags' names.
        shared: whether runs with the same inputs may share the outputs (`--shared`).
        parallel: whether several processes may share its work.
        brings: names of the stages that its command runs first, unless they are done.
        needed: whether `letgo run` runs it.
    """

    name: str
    outputs: tuple[Output, ...]
    work: Callable[[Run, Path], None]
    inputs: Row
    shared: bool = False
    parallel: bool = False
    brings: tuple[str, ...] = ()
    needed: bool = True

    def scratch(self, folder: Path) -> Path:
        """Where the stage works before its outputs are whole."""
        return folder / f"{self.name}.part"


def check(folder: Path, stages: Sequence[Stage]) -> None:
    """Refuse to mix two runs in one folder; writes nothing.

    Raises:
        InputError: a finished or interrupted stage was run with other inputs.
    """
    finished = read_json(folder / "stages.json")
    for stage in stages:
        is_recorded = stage.name in finished or stage.scratch(folder).exists()
        for output in stage.outputs:
            if (folder / output.name).exists() and not is_recorded:
                raise InputError(
                    f"--output_dir: {folder} already contains {output.name}, which letgo did not "
                    f"create; choose another folder"
                )
        interrupted = read_json(stage.scratch(folder) / "inputs.json")
        inputs = interrupted or finished.get(stage.name, {}).get("inputs")
        if inputs and inputs != stage.inputs:
            name = next(k for k in stage.inputs | inputs if inputs.get(k) != stage.inputs.get(k))
            raise InputError(
                f"--output_dir: {folder} belongs to another run: its {stage.outputs[0].name} was "
                f"made with {name}={inputs.get(name)}, now it is {stage.inputs.get(name)}; choose "
                f"another --output_dir, or add --overwrite to make it again"
            )


def run_stage(run: Run, stage: Stage) -> None:
    """Run one stage, unless it is done already.

    The stage works in `NAME.part`; its outputs are moved into the run folder when all are whole.
    A run that was killed continues from what it left in `NAME.part`.
    """
    record = read_json(run.folder / "stages.json")
    whole = all((run.folder / output.name).exists() for output in stage.outputs)
    if whole and record.get(stage.name, {}).get("inputs") == stage.inputs:
        log.info("%s: done before, kept", stage.name)
        return
    processes.wait()  # every process has looked at the folder
    scratch = stage.scratch(run.folder)
    if processes.is_first():
        _prepare(run, stage, scratch, record)
    processes.wait()
    start = time.monotonic()
    _reset_peak_memory()
    try:
        _work(run, stage, scratch)
    except InputError:
        if processes.is_first():
            shutil.rmtree(scratch)
        raise
    processes.wait()
    if not processes.is_first():
        return
    for output in stage.outputs:
        target = run.folder / output.name
        _remove(target)
        (scratch / output.name).replace(target)
    gc.collect()  # a trainer's reference cycles hold on to model and optimizer
    seconds = time.monotonic() - start
    usage = {"seconds": round(seconds, 1), "peak_memory_mb": round(_peak_memory_mb())}
    record[stage.name] = {"inputs": stage.inputs, **usage}
    write_json(run.folder / "stages.json", record)
    shutil.rmtree(scratch)
    names = ", ".join(output.name for output in stage.outputs)
    log.info("%s: %s (%.0f s)", stage.name, names, seconds)


def _work(run: Run, stage: Stage, scratch: Path) -> None:
    """Make a stage's outputs, or copy them from a run with the same inputs."""
    folder = run.settings.shared
    if folder is None or not stage.shared or processes.several():
        return stage.work(run, scratch)
    names = tuple(output.name for output in stage.outputs)
    cached = sharing.cache_path(folder, stage.name, stage.inputs)
    with sharing.lock(cached):
        if sharing.restore(cached, names, scratch):
            log.info("%s: taken from %s", stage.name, cached)
        else:
            stage.work(run, scratch)
            sharing.store(scratch, names, cached)


def _prepare(run: Run, stage: Stage, scratch: Path, record: Row) -> None:
    if scratch.exists() and read_json(scratch / "inputs.json") != stage.inputs:
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    write_json(scratch / "inputs.json", stage.inputs)
    if record.pop(stage.name, None):
        # Remove the old outputs first: an interrupted run must not mistake them for new ones.
        for output in stage.outputs:
            _remove(run.folder / output.name)
        write_json(run.folder / "stages.json", record)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _reset_peak_memory() -> None:
    """Start measuring peak memory afresh (Linux only; elsewhere the process's peak counts)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    """Peak resident memory of this process since it was reset, in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def in_chunks(
    name: str, scratch: Path, chunks: Sequence[list[T]], work: Callable[[list[T]], list[Row]]
) -> list[Row]:
    """Rows for chunks of items, in order; chunks are saved: a killed run continues after the last.

    Several processes share the chunks; each of them returns all rows.

    Args:
        name: for the progress bar; distinct within the stage.
        chunks: lists of items; must be the same in every attempt.
        work: from the items of a chunk to plain rows.
    """
    stem = quote(name, safe=" ").replace(" ", "+")  # distinct names, distinct files
    files = [scratch / f"{stem}-{i:06d}.json" for i in range(len(chunks))]
    rank, count = processes.share()
    mine = list(zip(chunks, files, strict=True))[rank::count]
    done = sum(len(chunk) for chunk, file in mine if file.exists())
    with closing(Progress(name, sum(len(chunk) for chunk, _ in mine), done)) as progress:
        for chunk, file in mine:
            if not file.exists():
                write_json(file, work(chunk))
                progress.step(len(chunk))
    processes.wait()
    return [row for file in files for row in read_json(file)]
