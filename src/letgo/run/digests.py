"""Digests of what a stage has written, by which it is recognised before it is used."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ADDED = "was added"

# By the file's identity, size and time: hashing gigabytes again and again would take minutes.
_computed: dict[tuple[int, int, int, int], str] = {}


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of every file of these files and folders in `folder`, by its path below it.

    Hidden files are left out: file managers leave them, and nothing reads them.
    """
    return {
        file.relative_to(folder).as_posix(): _digest(file)
        for name in names
        for file in _files(folder / name)
    }


def differences(folder: Path, name: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """The files of a file or folder that are not as they were recorded, and what happened to them.

    Empty if nothing was recorded of it, as earlier versions did not.
    """
    before = {f: d for f, d in recorded.items() if f == name or f.startswith(f"{name}/")}
    if not before:
        return {}
    now = digests(folder, [name])
    found = {}
    for file in {**before, **now}:
        if file not in now:
            found[file] = "is missing"
        elif file not in before:
            found[file] = ADDED
        elif before[file] != now[file]:
            found[file] = "was changed"
    return found


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in sorted(path.iterdir()):
            if not file.name.startswith("."):
                yield from _files(file)


def _digest(file: Path) -> str:
    status = file.stat()
    identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if identity not in _computed:
        with file.open("rb") as stream:
            _computed[identity] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _computed[identity]
