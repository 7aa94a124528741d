"""Run the `letgo` command in a fork of this process, which has imported torch and TRL already.

A fork counts the file operations of its command below one folder, and may be killed at one of them.
"""

import importlib
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SECONDS = 300.0  # a command that takes longer is stuck; an undisturbed one takes a few


class Done(NamedTuple):
    """How a command ended: its exit status, negative for a signal, and what it printed."""

    status: int
    out: str
    error: str
    operations: list[str]
    stuck: bool = False


class Kill(NamedTuple):
    """Which operation kills the command.

    Args:
        at: number of the operation, from 0; a command with fewer operations ends by itself.
        torn: whether the file that is being written is left empty or half; else the operation
            is not begun.
        group: whether the processes that belong to the command die with it.
    """

    at: int
    torn: bool
    group: bool

    @classmethod
    def drawn(cls, draw: random.Random, at: int) -> "Kill":
        """A kill at an operation, the rest of it by chance."""
        return cls(at, draw.random() < 0.5, draw.random() < 0.7)


def preload() -> None:
    """Import what the command imports, before any fork; torch may start no thread before."""
    import torch
    from transformers.utils import logging as hf_logging

    torch.set_num_threads(1)
    hf_logging.disable_progress_bar()
    import letgo.cli.commands
    import letgo.cli.looking
    import letgo.cli.study
    import letgo.review.terminal  # noqa: F401


def preload_all_of(folder: Path) -> None:
    """Import everything that the command which has ended in this folder has imported."""
    for name in (folder / "log" / "modules").read_text().split():
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)


def run(folder: Path, words: Sequence[object], kill: Kill | None = None) -> Done:
    """Run `letgo WORDS` in a fork, in `folder`, and wait until all its processes have ended."""
    log = folder / "log"
    log.mkdir(parents=True, exist_ok=True)
    ended, held = os.pipe()  # every process of the command holds its end until it is gone
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        os.close(ended)
        _child(folder, log, [str(word) for word in words], kill)
    os.close(held)
    stuck = not select.select([ended], [], [], SECONDS)[0]
    if stuck:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    os.close(ended)
    _, status = os.waitpid(process, 0)
    out, error, operations = (
        (log / name).read_text(errors="replace") for name in ("out", "error", "operations")
    )
    code = os.waitstatus_to_exitcode(status)
    return Done(code, out, error, operations.splitlines(), stuck)


def _child(folder: Path, log: Path, words: list[str], kill: Kill | None) -> None:
    """The life of a fork: its files, its counter, the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "error")):
        file = os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, number)
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    _count_operations(folder, log / "operations", kill)
    if words[0] == "study":
        _fork_cells()
    status = _main(words)
    (log / "modules").write_text("\n".join(sys.modules))
    os._exit(status)


def _main(words: list[str]) -> int:
    """The command's exit status; a traceback goes to standard error as it would from Python."""
    from letgo.cli import main

    sys.argv = ["letgo", *words]
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGING = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir"}


def _count_operations(folder: Path, listed: Path, kill: Kill | None) -> None:
    """Count what changes files below `folder`, in this process and its forks; die at one of them.

    Python announces such operations to audit hooks before it begins them.
    """
    count = mmap.mmap(-1, 8)  # shared by forks
    names = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    busy = False

    def operation(event: str, path: str, tear: Callable[[], None] | None) -> None:
        nonlocal busy
        (number,) = struct.unpack("q", count[:8])
        count[:8] = struct.pack("q", number + 1)
        os.write(names, f"{event} {os.path.relpath(path, folder)}\n".encode(errors="replace"))
        if kill is None or number != kill.at:
            return
        busy = True
        if kill.torn and tear:
            tear()
        if kill.group:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, details: tuple[object, ...]) -> None:
        if busy or (event != "open" and event not in CHANGING):
            return
        path, *rest = details
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        if event == "open":
            flags = rest[1]
            if flags & WRITING and _is_below(name, folder) and not _is_below(name, listed.parent):
                operation(event, name, lambda: os.close(os.open(name, flags, 0o666)))
        elif not Path(name).is_absolute() or _is_below(name, folder):  # relative to an open folder
            operation(event, name, None)

    sys.addaudithook(hook)
    for module, function, position in _native_writers():
        _announce(module, function, position, operation)


def _is_below(name: str, folder: Path) -> bool:
    return Path(name).absolute().is_relative_to(folder)


def _native_writers() -> list[tuple[object, str, int]]:
    """Functions that write files without Python's knowledge, and the position of the name."""
    import pyarrow.parquet
    import safetensors.torch
    import torch

    return [
        (pyarrow.parquet, "write_table", 1),
        (safetensors.torch, "serialize_file", 1),
        (torch, "save", 1),
    ]


def _announce(module: object, function: str, position: int, operation: Callable[..., None]) -> None:
    """Count a function's calls as operations, and its end as one that leaves half a file."""
    write = getattr(module, function)

    def announced(*args: object, **kwargs: object) -> object:
        target = args[position]
        if not isinstance(target, str | Path):
            return write(*args, **kwargs)
        operation(function, str(target), None)
        result = write(*args, **kwargs)
        size = Path(target).stat().st_size
        operation(f"{function} ends", str(target), lambda: os.truncate(target, size // 2))
        return result

    setattr(module, function, announced)


def _fork_cells() -> None:
    """Let a study fork its cells, from a process without threads, instead of starting Python."""
    from letgo.study import runner

    here, there = socket.socketpair()
    if not os.fork():
        here.close()
        _serve(there)
    there.close()
    lines = here.makefile("rw", encoding="utf-8")

    class Forked:
        """As much of `subprocess.Popen` as a study needs."""

        def __init__(self, command: list[str], stdout: object, stderr: object, env: object):
            request = {"words": command[command.index("run") :], "log": stdout.name}
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            self.pid = int(lines.readline())

        def wait(self) -> int:
            return int(lines.readline())

        def send_signal(self, number: int) -> None:
            os.kill(self.pid, number)

    # Of this module only: others start programs such as git.
    runner.subprocess = type("Subprocess", (), {**vars(subprocess), "Popen": Forked})


def _serve(requests: socket.socket) -> None:
    """Fork a `letgo run` for each line of the study, one after the other."""
    lines = requests.makefile("rw", encoding="utf-8")
    while line := lines.readline():
        request = json.loads(line)
        process = os.fork()
        if not process:
            log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(_main(request["words"]))
        lines.write(f"{process}\n")
        lines.flush()
        _, status = os.waitpid(process, 0)
        lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
        lines.flush()
    os._exit(0)
