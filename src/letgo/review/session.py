"""A run under review: every act is on disk before it is shown."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq

from letgo.errors import InputError
from letgo.review.texts import FILES, open_texts
from letgo.run import decisions
from letgo.run.decisions import BY_SCORE, FRACTION, INCLUDE, JOURNAL, UNDO, Action
from letgo.run.folder import read_config
from letgo.scoring.scores import top_count


class Review:
    """What is chosen of a run's texts, by the score and by people, and the way to change it.

    One review at a time may decide about a run; others look on.

    Args:
        folder: of the run.

    Attributes:
        texts: of the run.
        read_only: why nothing can be decided here; empty if it can.
        selected: (texts,) whether each is to be forgotten.
        ids, places: of the texts, and where each id is.
        order: places in the order in which the score chooses them.
        person: (texts,) 1 where a person wants a text forgotten, -1 where kept, 0 by the score.
        before: (texts,) what `selected` was before the last act.
        acts: those that stand.

    Raises:
        InputError: no run, or one without scores.
    """

    def __init__(self, folder: Path):
        self.folder, self.turn = folder, RLock()
        self.read_only = ""
        self._journal: IO[bytes] | None = None
        self.texts = open_texts(folder)
        self._open_journal()
        self.load()

    def load(self) -> None:
        """Take in what the run folder holds now."""
        with self.turn:
            self._stamp = self._stamps()
            self.texts = open_texts(self.folder)
            self.ids, self.order = self.texts.ids, self.texts.order()
            self.places = {name: place for place, name in enumerate(self.ids)}
            self.acts = decisions.read_actions(self.folder)
            self._follow()
            self.before = self.selected

    def close(self) -> None:
        """Let another review decide."""
        if self._journal:
            self._journal.close()

    def _open_journal(self) -> None:
        """Take the one place to decide from, or say why it cannot be had."""
        try:
            journal = (self.folder / JOURNAL).open("ab+")
        except OSError as error:
            self.read_only = f"{self.folder} cannot be written to ({error.strerror})"
            return
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed process's is free
        except OSError:
            journal.close()
            self.read_only = "another review of this run is open"
            return
        journal.seek(0)
        whole = journal.read().rfind(b"\n") + 1
        journal.truncate(whole)  # of an act that was not written to its end
        self._journal = journal

    def _stamps(self) -> list[Any]:
        stats = [(self.folder / file).stat() for file in FILES if file != "selection.parquet"]
        config = read_config(self.folder)
        chosen_by = [config.get(name) for name in ("forget_fraction", "selection", "seed")]
        return [*((stat.st_mtime_ns, stat.st_size) for stat in stats), chosen_by]

    def is_stale(self) -> bool:
        """Whether texts, scores or their selection have been made anew since they were read."""
        return self._stamp != self._stamps()

    def _follow(self) -> None:
        """Bring what is chosen up to the acts, in memory and in `selection.parquet`."""
        self.decided = decisions.combine(self.acts)
        table = decisions.selection_table(
            self.ids, self.order, self.fraction, self.texts.which, self.decided
        )
        self.selected = np.array(table["selected"])
        wanted = {
            name: 1 if which == INCLUDE else -1 for name, (which, _) in self.decided.texts.items()
        }
        self.person = np.array([wanted.get(name, 0) for name in self.ids], np.int8)
        file = self.folder / "selection.parquet"
        if self._journal and not decisions.is_current(pq.read_schema(file), self.decided):
            part = file.with_name("selection.parquet.review.part")
            pq.write_table(table, part)
            part.replace(file)

    @property
    def fraction(self) -> float:
        """The share of the texts that the score chooses."""
        own = self.decided.fraction
        return float(self.texts.config.get("forget_fraction", 0.5)) if own is None else own

    def threshold(self, fraction: float | None = None) -> float | None:
        """The confidence of the last text that the score chooses; None where that says nothing.

        Args:
            fraction: share that it would choose; without it the one it does.
        """
        if not self.order or self.texts.which == "random":
            return None
        count = top_count(self.fraction if fraction is None else fraction, len(self.order))
        return float(self.texts.column("confidence")[self.order[count - 1]])

    def moved(self, fraction: float) -> tuple[int, int]:
        """How many texts would come in and go out if the score chose another share."""
        old, new = (top_count(f, len(self.order)) for f in (self.fraction, fraction))
        between = self.order[min(old, new) : max(old, new)]
        count = int((self.person[between] == 0).sum()) if between else 0
        return (count, 0) if new > old else (0, count)

    def decide(self, act: str, rows: Sequence[int] | np.ndarray, what: str) -> None:
        """Forget or keep texts whatever the score says, or leave them to the score again.

        Args:
            act: "include", "exclude" or "by score".
            rows: places of the texts.
            what: the act in words.

        Raises:
            InputError: a review that looks on only, texts made anew, or no text that can be meant.
        """
        if act == INCLUDE:
            finite = np.isfinite(self.texts.column("confidence"))
            rows = [row for row in rows if finite[row]]
        if act == BY_SCORE:
            rows = [row for row in rows if self.person[row]]
        if not len(rows):
            raise InputError("there is no text to decide on")
        self._write(Action(decisions.now(), act, [self.ids[row] for row in rows], None, what))

    def move(self, fraction: float) -> None:
        """Let the score choose another share of the texts, in (0, 1].

        Raises:
            InputError: as `decide`.
        """
        if not 0 < fraction <= 1:
            raise InputError(f"the share must be above 0 and at most 1, not {fraction}")
        if fraction != self.fraction:
            what = f"{self.fraction:.1%} -> {fraction:.1%} by the score"
            self._write(Action(decisions.now(), FRACTION, [], fraction, what))

    def undo(self) -> str:
        """Take the last standing act back; says which it was.

        Raises:
            InputError: as `decide`, or there is none.
        """
        if not self.acts:
            raise InputError("there is nothing to undo")
        what = self.acts[-1].what
        self._write(Action(decisions.now(), UNDO, [], None, f"undo: {what}"))
        return what

    def _write(self, act: Action) -> None:
        if self._journal is None:
            raise InputError(f"nothing can be decided here: {self.read_only}")
        with self.turn:
            if self.is_stale():
                self.load()
                raise InputError("texts, scores or selection were made anew; look at them first")
            self.before = self.selected
            self._journal.write(decisions.to_line(act).encode())
            self._journal.flush()
            os.fsync(self._journal.fileno())
            decisions.add(self.acts, act)
            self._follow()
