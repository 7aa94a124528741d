"""Progress on the terminal, and lines of text where there is none."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger("letgo")
T = TypeVar("T")

# A log file wants a sign of life now and then, not a line per batch.
SECONDS_BETWEEN_LINES = 15.0


def configure(quiet: bool) -> None:
    """Send letgo's messages to standard error; with `quiet`, only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


class Progress:
    """A bar with remaining time on a terminal; a line every few seconds elsewhere; silent if quiet.

    Args:
        name: what is being done, e.g. "elicit dental".
        total: how many `step`s there will be.
        done: how many of them an earlier, interrupted run has left behind.
    """

    def __init__(self, name: str, total: int, done: int = 0):
        self.name, self.total, self.done, self.resumed = name, total, done, done
        self.start = self.last_line = time.monotonic()
        visible = log.isEnabledFor(logging.INFO)
        self.bar = (
            tqdm(desc=name, total=total, initial=done, leave=False, dynamic_ncols=True)
            if visible and sys.stderr.isatty()
            else None
        )

    def step(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is shown behind the counts."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES and self.done < self.total:
            self.last_line = time.monotonic()
            pace = (self.last_line - self.start) / (self.done - self.resumed)
            left = pace * (self.total - self.done)
            log.info(
                "%s: %d/%d, %.0f s left%s",
                self.name,
                self.done,
                self.total,
                left,
                f", {note}" if note else "",
            )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def track(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Yield `items`, showing progress under `name`."""
    with closing(Progress(name, total)) as progress:
        for item in items:
            yield item
            progress.step()
