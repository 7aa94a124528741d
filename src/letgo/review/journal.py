"""The open journal of a review; a decision is on disk when `append` returns."""

import os
from contextlib import suppress
from pathlib import Path

from letgo.errors import InputError
from letgo.run import decisions
from letgo.run.decisions import JOURNAL, Action

TORN = f"{JOURNAL}.torn"


class Journal:
    """`review.jsonl` in a run folder, opened to append actions.

    Attributes:
        file: its path.
        note: what was mended when it was opened; empty if nothing.

    Raises:
        OSError: it cannot be opened or mended.
    """

    def __init__(self, folder: Path):
        self.file, self.note = folder / JOURNAL, ""
        # Without a buffer: it would keep a line that did not fit on the disk, and write it later.
        self._raw = self.file.open("ab+", buffering=0)
        try:
            self._mend()
            os.fsync(self._raw.fileno())
        except OSError:
            self.close()
            raise
        self._written = os.fstat(self._raw.fileno())

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def _mend(self) -> None:
        """Let the journal end with a whole line; half a line is put into a file beside it."""
        self._raw.seek(0)
        whole, torn = decisions.split_torn(self._raw.read())
        if torn:
            with self.file.with_name(TORN).open("ab") as aside:
                aside.write(torn + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            self._raw.truncate(len(whole))
            self.note = (
                f"{JOURNAL} ended in half a line, which is not a decision; it is now in {TORN}"
            )
        elif whole and not whole.endswith(b"\n"):
            self._raw.write(b"\n")

    def is_unchanged(self) -> bool:
        """Whether the file of this name is still the open one, as this review has left it."""
        try:
            now = self.file.stat()
        except OSError:
            return False
        then = self._written
        return os.path.samestat(now, then) and (now.st_size, now.st_mtime_ns) == (
            then.st_size,
            then.st_mtime_ns,
        )

    def append(self, action: Action) -> None:
        """Write an action to the disk.

        Raises:
            InputError: it could not be written; the journal is as before.
        """
        line = decisions.to_line(action).encode()
        try:
            while line:  # a full disk may take a part of it
                line = line[self._raw.write(line) :]
            os.fsync(self._raw.fileno())
            if not os.path.samestat(self.file.stat(), self._written):
                raise FileNotFoundError(0, f"{JOURNAL} was deleted or replaced")
        except OSError as error:
            with suppress(OSError):
                self._raw.truncate(self._written.st_size)
                self._written = os.fstat(self._raw.fileno())
            raise InputError(
                f"the decision is not saved: {error.strerror}; put that right, then try again"
            ) from error
        self._written = os.fstat(self._raw.fileno())
