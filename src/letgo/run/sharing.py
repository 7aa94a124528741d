"""Cache of finished stages, shared by runs with the same inputs (`--shared DIR`)."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from letgo.progress import log
from letgo.run.digests import differences, digests

DIGESTS = "digests.json"  # of an entry's outputs; earlier versions wrote none
# Larger files, which are weights, are linked. Smaller ones are copied: people edit them in place.
LARGEST_COPY = 16 << 20  # bytes


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


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: str | Path, target: str | Path) -> None:
    """Copy a file or folder to `target`, large files by hard links where that is possible.

    Links are safe because stages replace their outputs and never write into an existing file.
    What is at `target` already, from a process that was killed, is replaced.
    """
    remove(Path(target))
    if Path(source).is_dir():
        shutil.copytree(source, target, copy_function=link)
        return
    if Path(source).stat().st_size > LARGEST_COPY:
        try:
            return os.link(source, target)
        except OSError:  # on another disk, or links are not supported
            pass
    shutil.copy2(source, target)


def store(scratch: Path, outputs: Sequence[str], cached: Path) -> None:
    """Put a stage's outputs into the cache; `cached` appears complete or not at all."""
    part = cached.with_name(f"{cached.name}.part")
    remove(part)
    part.mkdir()
    for output in outputs:
        link(scratch / output, part / output)
    (part / DIGESTS).write_text(json.dumps(digests(scratch, outputs)), encoding="utf-8")
    part.rename(cached)


def restore(cached: Path, outputs: Sequence[str], scratch: Path) -> bool:
    """Copy cached outputs to a scratch folder; False if the stage is not cached.

    An entry that is damaged is removed, with a warning.
    """
    if not cached.exists():
        return False
    if damage := _damage(cached, outputs):
        log.warning("%s is damaged (%s) and will be made again", cached, damage)
        remove(cached)
        return False
    for output in outputs:
        link(cached / output, scratch / output)
    return True


def _damage(cached: Path, outputs: Sequence[str]) -> str:
    """What is wrong with an entry; empty if nothing is."""
    for output in outputs:
        if not (cached / output).exists():
            return f"{output} is missing"
    file = cached / DIGESTS
    if not file.exists():
        return ""
    try:
        recorded = {str(k): v for k, v in json.loads(file.read_bytes()).items()}
    except (ValueError, AttributeError):
        return f"{DIGESTS} cannot be read"
    for output in outputs:
        if output not in {name.split("/")[0] for name in recorded}:
            return f"{DIGESTS} lacks {output}"
        for name, what in differences(cached, output, recorded).items():
            return f"{name} {what}"
    return ""
