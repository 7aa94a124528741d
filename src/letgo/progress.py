"""Progress bars on a terminal, progress lines in a log file."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

from letgo.errors import printable

log = logging.getLogger("letgo")
T = TypeVar("T")

SECONDS_BETWEEN_LINES = 15.0  # in a log file, where a line per batch would be too many


def configure(quiet: bool) -> None:
    """Send letgo's messages to standard error; with `quiet`, only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


class _Formatter(logging.Formatter):
    """Names of files and sets come from users: what they hold must not command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as printable text."""
        return printable(super().format(record))


class Progress:
    """A bar with the remaining time on a terminal, a line every few seconds elsewhere.

    Silent after `configure(quiet=True)`. An earlier, interrupted run has finished `done` steps.
    """

    def __init__(self, name: str, total: int, done: int = 0):
        self.name, self.total, self.done, self.resumed = name, total, done, done
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
            label = printable(name)
            self.bar = tqdm(desc=label, total=total, initial=done, leave=False, dynamic_ncols=True)

    def step(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` steps; `note` is printed after the counts."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES and self.done < self.total:
            self.last_line = time.monotonic()
            seconds_per_step = (self.last_line - self.start) / (self.done - self.resumed)
            left = seconds_per_step * (self.total - self.done)
            suffix = f", {note}" if note else ""
            log.info("%s: %d/%d, %.0f s left%s", self.name, self.done, self.total, left, suffix)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def track(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Yield `items` and report progress under `name`."""
    with closing(Progress(name, total)) as progress:
        for item in items:
            yield item
            progress.step()
