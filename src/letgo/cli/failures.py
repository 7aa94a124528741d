"""Failures that a user can put right, in a sentence."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from letgo.run.config import output_dirs
from letgo.unlearning.guards import Diverged

UNUSABLE_PATH = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# Some libraries report a full disk without its error number.
NEARLY_FULL = 8 << 20  # bytes


def explain(error: Exception, arguments: Sequence[str]) -> str | None:
    """What happened and what to do next, or None if it is a bug to be shown as it is."""
    if isinstance(error, Diverged):
        return str(error)
    if any(_is_disk_full(cause) for cause in _causes(error)) or _no_space_left(arguments):
        return (
            "the disk is full; make room and give the same command again: finished stages are kept "
            "and the interrupted one goes on"
        )
    if any(
        isinstance(cause, MemoryError) or "out of memory" in str(cause) for cause in _causes(error)
    ):
        return (
            "out of memory; lower --per_device_train_batch_size, --tokens_per_batch or "
            "--generation_batch_size, or use --use_peft, then give the same command again"
        )
    if isinstance(error, UNUSABLE_PATH):
        return f"{error.filename}: {error.strerror}; give another --output_dir, or put it right"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or (
        "No space left on device" in str(error)
    )


def _no_space_left(arguments: Sequence[str]) -> bool:
    """Whether the disk of the output folder is (nearly) full."""
    folder = Path((output_dirs(arguments) or ["."])[-1])
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < NEARLY_FULL
