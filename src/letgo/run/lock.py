"""One command at a time in a folder."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from letgo.errors import InputError
from letgo.progress import log

NAME = ".lock"


@contextmanager
def exclusive(folder: Path, purpose: str) -> Iterator[None]:
    """Let no other command work in `folder` during this block; makes the folder if need be.

    The system frees the lock when its owner dies, however it dies. The lock file is removed at the
    end, and so is a folder that this call made and that stays empty. Of the processes of one
    command only the first takes the lock.

    Args:
        purpose: what this command does, for the message that another one gets.

    Raises:
        InputError: another process holds the lock.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several and os.environ.get("RANK", "0") != "0":
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    descriptor = _take(file)
    try:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "since": since, "purpose": purpose}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        # Removed while it is held: whoever waits for the removed file looks again (`_take`).
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                file.unlink()
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # it has files
                folder.rmdir()


def _take(file: Path) -> int:
    """An open descriptor of the lock file, with the lock."""
    while True:
        # No link is followed: it could lead to a file of somebody else.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            raise InputError(_in_use(file.parent, owner)) from None
        except OSError as error:  # a file system without locks
            log.warning(
                "%s cannot be locked (%s): start no second command there", file.parent, error
            )
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)  # its last owner has removed it in the meantime


def _in_use(folder: Path, owner: bytes) -> str:
    try:
        found = json.loads(owner)
        who = f"process {found['pid']} since {found['since']} ({found['purpose']})"
    except (ValueError, TypeError, KeyError):  # it has the lock, and has not yet written who it is
        who = "another process that has just started"
    return f"{folder} is in use by {who}; wait for it or stop it"
