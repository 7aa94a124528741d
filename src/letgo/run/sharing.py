"""Cache of finished stages, shared by runs with the same inputs (`--shared DIR`)."""

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
    """The folder in which a stage with these inputs is cached."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return Path(shared) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def lock(cached: Path) -> Iterator[None]:
    """Let one process at a time fill `cached`; the lock is released if its owner is killed."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with cached.with_name(f"{cached.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(source: str | Path, target: str | Path) -> None:
    """Copy a file or folder to `target`, by hard links where the file system allows them.

    Links are safe because stages replace their outputs and never write into an existing file.
    """
    if Path(source).is_dir():
        shutil.copytree(source, target, copy_function=link)
        return
    try:
        os.link(source, target)
    except OSError:  # on another disk, or links are not supported
        shutil.copy2(source, target)


def store(scratch: Path, outputs: tuple[str, ...], cached: Path) -> None:
    """Put a stage's outputs into the cache; `cached` appears complete or not at all."""
    part = cached.with_name(f"{cached.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for output in outputs:
        link(scratch / output, part / output)
    part.rename(cached)


def restore(cached: Path, outputs: tuple[str, ...], scratch: Path) -> bool:
    """Copy cached outputs to a scratch folder; False if the stage is not cached."""
    if not cached.exists():
        return False
    for output in outputs:
        link(cached / output, scratch / output)
    return True
