"""What a stage is: whole-or-absent outputs, and work that can be interrupted and resumed."""

import gc
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from letgo import processes
from letgo.errors import InputError
from letgo.progress import Progress, log
from letgo.run import sharing
from letgo.run.digests import digests
from letgo.run.folder import Output, Row, damage, read_json, read_stages, write_json
from letgo.run.inputs import Run

T = TypeVar("T")

LONGEST_STEM = 100  # characters of the name of a chunk's file


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

    def is_whole(self, folder: Path, record: Row) -> bool:
        """Whether it has run with these inputs, by `stages.json`, and its outputs are there."""
        exist = all((folder / output.name).exists() for output in self.outputs)
        return exist and bool(record.get(self.name, {}).get("inputs") == self.inputs)


def check(folder: Path, stages: Sequence[Stage]) -> None:
    """Refuse to mix two runs in one folder; writes nothing.

    Raises:
        InputError: a finished or interrupted stage was run with other inputs, or an output of a
            finished one is not as it was written.
    """
    finished = read_stages(folder)
    for stage in stages:
        is_recorded = stage.name in finished or stage.scratch(folder).exists()
        for output in stage.outputs:
            if (folder / output.name).exists() and not is_recorded:
                raise InputError(
                    f"--output_dir: {folder} already contains {output.name}, which letgo did not "
                    f"create; choose another folder"
                )
        interrupted = _interrupted(stage.scratch(folder))
        inputs = interrupted or finished.get(stage.name, {}).get("inputs")
        if inputs and inputs != stage.inputs:
            name = next(k for k in stage.inputs | inputs if inputs.get(k) != stage.inputs.get(k))
            raise InputError(
                f"--output_dir: {folder} belongs to another run: its {stage.outputs[0].name} was "
                f"made with {name}={inputs.get(name)}, now it is {stage.inputs.get(name)}; choose "
                f"another --output_dir, or add --overwrite to make it again"
            )
        there = [output for output in stage.outputs if (folder / output.name).exists()]
        for output in there if stage.name in finished else []:
            if problem := damage(folder, output):
                raise InputError(problem)


def tidy(folder: Path, stages: Sequence[Stage]) -> None:
    """Remove what a finished stage that was killed at its very end has left of its work."""
    record = read_stages(folder)
    for stage in stages:
        if stage.is_whole(folder, record):
            sharing.remove(stage.scratch(folder))


def _interrupted(scratch: Path) -> Row:
    """The inputs of an interrupted stage; empty if there is none, or its file is damaged."""
    try:
        return read_json(scratch / "inputs.json")
    except InputError:
        return {}


def run_stage(run: Run, stage: Stage) -> None:
    """Run one stage, unless it is done already.

    The stage works in `NAME.part`; its outputs are moved into the run folder when all are whole.
    A run that was killed continues from what it left in `NAME.part`.
    """
    record = read_stages(run.folder)
    if stage.is_whole(run.folder, record) and not _is_made_again(run, stage):
        log.info("%s: done before, kept", stage.name)
        return
    processes.wait()  # every process has looked at the folder
    scratch = stage.scratch(run.folder)
    if processes.is_first():
        with _not_deleted(run.folder, scratch):
            _prepare(run, stage, scratch, record)
    processes.wait()
    start = time.monotonic()
    _reset_peak_memory()
    try:
        with _not_deleted(run.folder, scratch):
            _work(run, stage, scratch)
    except InputError:
        if processes.is_first():
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    processes.wait()
    if not processes.is_first():
        return
    for output in stage.outputs:
        target = run.folder / output.name
        sharing.remove(target)
        (scratch / output.name).replace(target)
    gc.collect()  # a trainer's reference cycles hold on to model and optimizer
    seconds = time.monotonic() - start
    names = [output.name for output in stage.outputs]
    usage = {"seconds": round(seconds, 1), "peak_memory_mb": round(_peak_memory_mb())}
    made = {"outputs": digests(run.folder, names)}
    record[stage.name] = {"inputs": stage.inputs, **usage, **made}
    write_json(run.folder / "stages.json", record)
    shutil.rmtree(scratch)
    log.info("%s: %s (%.0f s)", stage.name, ", ".join(names), seconds)


def _is_made_again(run: Run, stage: Stage) -> bool:
    """Whether `--overwrite` replaces the outputs of a finished stage: where they are damaged."""
    if not run.settings.overwrite:
        return False  # `check` has refused them
    try:
        problem = next(filter(None, (damage(run.folder, o) for o in stage.outputs)), "")
    except InputError as error:  # a file that cannot even be read
        problem = str(error)
    if problem:
        log.warning("%s: %s", stage.name, problem.partition(";")[0])
    return bool(problem)


@contextmanager
def _not_deleted(folder: Path, scratch: Path) -> Iterator[None]:
    """Name the cause of all that fails, or is made anew, in a run folder that somebody deletes."""
    try:
        yield
    except Exception:
        if (folder / "config.yaml").exists():
            raise
    if (folder / "config.yaml").exists():
        return
    shutil.rmtree(scratch, ignore_errors=True)
    with suppress(OSError):  # it is not empty, or not there
        folder.rmdir()
    raise InputError(
        f"--output_dir: {folder} was deleted or moved while letgo worked in it; start again"
    )


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
    if scratch.exists() and _interrupted(scratch) != stage.inputs:
        shutil.rmtree(scratch)
    scratch.mkdir(exist_ok=True)
    write_json(scratch / "inputs.json", stage.inputs)
    for output in stage.outputs:
        # Of an attempt that was killed while it wrote, stored or fetched them: they are made anew.
        sharing.remove(scratch / output.name)
    if record.pop(stage.name, None):
        # Remove the old outputs first: an interrupted run must not mistake them for new ones.
        for output in stage.outputs:
            sharing.remove(run.folder / output.name)
        write_json(run.folder / "stages.json", record)


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
    stem = quote(name, safe=" ", errors="surrogatepass").replace(" ", "+")
    if len(stem) > LONGEST_STEM:  # a letter may take nine bytes, and a name has at most 255
        stem = f"{stem[:LONGEST_STEM]}-{_hash(name)[:16]}"
    files = [scratch / f"{stem}-{i:06d}.json" for i in range(len(chunks))]
    rank, count = processes.share()
    mine = list(zip(chunks, files, strict=True))[rank::count]
    missing = [(chunk, file) for chunk, file in mine if _rows(file, len(chunk)) is None]
    done = sum(len(chunk) for chunk, _ in mine) - sum(len(chunk) for chunk, _ in missing)
    with closing(Progress(name, sum(len(chunk) for chunk, _ in mine), done)) as progress:
        for chunk, file in missing:
            rows = work(chunk)
            write_json(
                file, {"items": len(chunk), "digest": _chunk_digest(file, rows), "rows": rows}
            )
            progress.step(len(chunk))
    processes.wait()
    rows = []
    for chunk, file in zip(chunks, files, strict=True):
        found = _rows(file, len(chunk))
        if found is None:
            raise InputError(
                f"{file} was damaged or deleted during the work; run the command again"
            )
        rows += found
    return rows


def _rows(file: Path, items: int) -> list[Row] | None:
    """The rows of a chunk of so many items; None if it is not there, not whole, or another one."""
    try:
        content = read_json(file)
        rows: list[Row] = content["rows"]
        if content["items"] == items and content["digest"] == _chunk_digest(file, rows):
            return rows
    except (InputError, KeyError):
        pass
    if file.exists():
        log.warning("%s is damaged; this part is done again", file)
    return None


def _chunk_digest(file: Path, rows: list[Row]) -> str:
    return _hash(f"{file.name} {json.dumps(rows)}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
