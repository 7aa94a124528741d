"""Finished stages kept for other runs with the same inputs (`--shared DIR`)."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_path(shared: str, name: str, inputs: dict[str, Any]) -> Path:
    """The folder of a stage with these inputs."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return Path(shared) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def lock(kept: Path) -> Iterator[None]:
    """One process at a time makes what belongs into `kept`; the lock of a killed one is free."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(source: Path, target: Path) -> None:
    """The same file or folder in a second place; files are linked where the disk allows it.

    Outputs of stages are replaced, never written into, so that a link stays as it was.
    """
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that has no links
        shutil.copy2(source, target)


def store(scratch: Path, outputs: tuple[str, ...], kept: Path) -> None:
    """Put whole outputs into `kept`, which appears whole or not at all."""
    part = kept.with_name(f"{kept.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for output in outputs:
        link(scratch / output, part / output)
    part.rename(kept)


def restore(kept: Path, outputs: tuple[str, ...], scratch: Path) -> bool:
    """Bring kept outputs into a scratch folder; says whether there were any."""
    if not kept.exists():
        return False
    for output in outputs:
        link(kept / output, scratch / output)
    return True
