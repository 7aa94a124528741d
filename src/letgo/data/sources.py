"""The rows of a data source, unchecked: a file, a folder, a saved data set, or one of the hub."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from letgo.data.containers import (
    COMPRESSIONS,
    SUFFIXES,
    Choose,
    Rows,
    dataset_rows,
    file_rows,
    reason_of,
    suffix,
)
from letgo.errors import InputError, first_line
from letgo.progress import log

# Words in file names that name a split of a data set.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "heldout"), "test"),
}

# The split that a flag reads of a source that has several; all other flags read the training split.
WANTED = {"--learn_test": "test", "--learn_validation": "validation"}


def rows(source: str, flag: str, choose: Choose, streamed: bool = False) -> Rows:
    """The rows of `source`; for the arguments and the errors see `records.read_records`.

    Args:
        choose: of a table's columns those to read.
        streamed: whether a data set of the hub is read without being stored.
    """
    if not source or len(source) > 1000 or "\0" in source:
        raise InputError(f"{flag}: {source[:40]!r} is not the name of a data set")
    path = Path(source)
    if "://" in source:
        yield from file_rows(source, flag, choose)
        return
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"{flag}: cannot read {source}: {reason_of(error)}") from error
    if is_folder:
        yield from _folder_rows(path, flag, choose)
    elif exists:
        yield from file_rows(source, flag, choose)
    elif suffix(source) in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(f"{flag}: there is no file {source}")
    else:
        yield from _hub_rows(source, flag, choose, streamed)


def _folder_rows(folder: Path, flag: str, choose: Choose) -> Rows:
    """The rows of a folder's files, or of the split that a flag reads if it has splits."""
    names = _names(folder, flag)
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        yield from _saved_rows(folder, flag, choose)
        return
    files = [name for name in names if _is_data(folder / name)]
    if not files:  # the splits may be folders, or in the folder `data`
        below = [name for name in names if _split(name) or name == "data"]
        below = [name for name in below if (folder / name).is_dir()]
        inside = [f"{name}/{file}" for name in below for file in _names(folder / name, flag)]
        files = [name for name in inside if _is_data(folder / name)]
    if not files:
        raise InputError(f"{flag}: no {', '.join(SUFFIXES)} file in the folder {folder}")
    for name in _part({name: _split(name) for name in files}, folder, flag):
        yield from file_rows(str(folder / name), flag, choose)


def _names(folder: Path, flag: str) -> list[str]:
    """The names in a folder but hidden ones, and those that programs keep while a file is open."""
    try:
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "~")))
    except OSError as error:
        raise InputError(f"{flag}: cannot read {folder}: {reason_of(error)}") from error


def _is_data(path: Path) -> bool:
    return suffix(path.name) in SUFFIXES and not path.is_dir()


def _split(file: str) -> str:
    """The split that a file's name or else its folder's names, or nothing."""
    for part in reversed(PurePosixPath(file).parts):
        while PurePosixPath(part).suffix in (*SUFFIXES, *COMPRESSIONS):
            part = PurePosixPath(part).stem
        words = re.split(r"(?:set|data|split)?(?:[\W\d_]+|$)", part.lower())
        if split := next((SPLITS[word] for word in words if word in SPLITS), ""):
            return split
    return ""


def _part(splits: dict[str, str], source: Path | str, flag: str) -> list[str]:
    """Those of the names that are of the split which the flag reads, or all without several splits.

    Raises:
        InputError: there are different splits, but not this one.
    """
    if len(set(splits.values())) == 1:
        return list(splits)
    wanted = WANTED.get(flag, "train")
    part = [name for name, split in splits.items() if split == wanted]
    if not part:
        raise InputError(
            f"{flag}: {source} has splits, but none is named {wanted}: {', '.join(splits)}; name "
            f"the one to read"
        )
    others = [name for name in splits if name not in part]
    message = "%s: of %s only %s is read, and not %s"
    for other, split in WANTED.items():
        if flag == "--learn" and split in splits.values():
            message += f"; {other} {source} reads its {split} split"
    log.warning(message, flag, source, ", ".join(part), ", ".join(others))
    return part


def _saved_rows(folder: Path, flag: str, choose: Choose) -> Rows:
    """The rows of a data set that `datasets` has saved by `save_to_disk`."""
    from datasets import load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the library has no common base class of its errors
        raise InputError(
            f"{flag}: cannot load the saved data set {folder}: {first_line(error)}"
        ) from error
    yield from _rows_of_splits(saved, str(folder), flag, choose)


def _rows_of_splits(data: Any, source: str, flag: str, choose: Choose) -> Rows:
    """The rows of a data set of `datasets`, or of a split of several."""
    if not isinstance(data, dict):
        yield from dataset_rows(data, source, flag, choose)
        return
    for name in _part({str(name): SPLITS.get(str(name), str(name)) for name in data}, source, flag):
        yield from dataset_rows(data[name], f"{source} {name}", flag, choose)


def _hub_rows(source: str, flag: str, choose: Choose, streamed: bool) -> Rows:
    """The rows of `id`, `id:split` or `id:config:split`, also with `@revision` after the id."""
    from datasets import load_dataset

    name, *rest = source.split(":")
    name, _, revision = name.partition("@")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else None
    try:
        data = load_dataset(
            name, config, split=split, revision=revision or None, streaming=streamed
        )
    except Exception as error:  # the hub's client has no common base class of its errors
        raise InputError(
            f"{flag}: {source} is neither a local file nor a data set that can be loaded from the "
            f"hub: {first_line(error)}"
        ) from error
    yield from _rows_of_splits(data, source, flag, choose)
