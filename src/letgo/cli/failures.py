"""Failures that a user can fix, in one sentence each."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from letgo.cli.flags import parse_early
from letgo.unlearning.guards import Diverged

UNUSABLE_PATH = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# Some libraries report a full disk without its error number: the free space is checked, too.
NEARLY_FULL = 8 << 20  # bytes


def explain(error: Exception, arguments: Sequence[str]) -> str | None:
    """What happened and what to do next; None for a bug, which needs its traceback."""
    if isinstance(error, Diverged):
        return str(error)
    causes = list(_causes(error))
    if any(_is_disk_full(cause) for cause in causes) or _no_space_left(arguments):
        return (
            "the disk is full; free some space and run the same command again: it resumes from the "
            "last finished stage or checkpoint"
        )
    if any(isinstance(cause, MemoryError) or "out of memory" in str(cause) for cause in causes):
        return (
            "out of memory; lower --per_device_train_batch_size, --tokens_per_batch or "
            "--generation_batch_size, or use --use_peft, then run the same command again"
        )
    if isinstance(error, UNUSABLE_PATH):
        return f"{error.filename}: {error.strerror}; choose another --output_dir, or fix the path"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return number == errno.ENOSPC or "No space left on device" in str(error)


def _no_space_left(arguments: Sequence[str]) -> bool:
    """Whether the disk of the output folder is (nearly) full."""
    folder = Path(parse_early(arguments).output_dir or ".")
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < NEARLY_FULL
