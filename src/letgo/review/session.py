"""A run under review; every action is saved before the page shows it."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq

from letgo.data.files import atomic_write
from letgo.errors import InputError
from letgo.review.texts import open_texts
from letgo.run import decisions
from letgo.run.decisions import BY_SCORE, FRACTION, INCLUDE, JOURNAL, UNDO, Action
from letgo.run.folder import SCORES, SELECTION, SELF_KNOWLEDGE, read_config
from letgo.scoring.scores import top_count


class Review:
    """The selection of the run in `folder`, and the actions that change it.

    Only one review of a run at a time can take decisions; further ones are read-only.

    Attributes:
        texts: texts of the run, with scores.
        read_only: the reason why this review cannot take decisions; empty if it can.
        selected: (texts,) whether each text will be unlearned.
        previous: (texts,) `selected` before the last action.
        person: (texts,) 1 where a person included a text, -1 where excluded, else 0.
        ids, index_of: ids of the texts, and the index of each id.
        ranking: indices of the texts in the order in which the score selects them.
        actions: journal of the run without what was undone.
        decided: decisions that these actions leave in force.
        lock: held while an action is written.

    Raises:
        InputError: the folder is not a run, or has no scores.
    """

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, RLock()
        self.read_only = ""
        self._journal: IO[bytes] | None = None
        self.texts = open_texts(folder)
        self._open_journal()
        self.reload()

    def reload(self) -> None:
        """Read the run folder again."""
        with self.lock:
            self._version = self._file_version()
            self.texts = open_texts(self.folder)
            self.ids, self.ranking = self.texts.ids, self.texts.ranking()
            self.index_of = {name: index for index, name in enumerate(self.ids)}
            self.actions = decisions.read_actions(self.folder)
            self._update_selection()
            self.previous = self.selected

    def close(self) -> None:
        """Release the run, so that another review can take decisions."""
        if self._journal:
            self._journal.close()

    def _open_journal(self) -> None:
        """Lock the journal, or set `read_only` to the reason why that is impossible."""
        try:
            journal = (self.folder / JOURNAL).open("ab+")
        except OSError as error:
            self.read_only = f"{self.folder} cannot be written to ({error.strerror})"
            return
        try:
            # The system releases the lock of a process that was killed.
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            journal.close()
            self.read_only = "another review of this run is open"
            return
        journal.seek(0)
        complete = journal.read().rfind(b"\n") + 1
        journal.truncate(complete)  # an incomplete last line is an action that was not saved
        self._journal = journal

    def _file_version(self) -> list[Any]:
        """A value that changes with the texts, their scores or the settings of the selection."""
        stats = [(self.folder / output.name).stat() for output in (SELF_KNOWLEDGE, SCORES)]
        config = read_config(self.folder)
        settings = [config.get(name) for name in ("forget_fraction", "selection", "seed")]
        return [*((stat.st_mtime_ns, stat.st_size) for stat in stats), settings]

    def is_stale(self) -> bool:
        """Whether the run's texts, scores or selection have changed since they were read."""
        return self._version != self._file_version()

    def _update_selection(self) -> None:
        """Apply the actions to the selection, in memory and in `selection.parquet`."""
        self.decided = decisions.combine(self.actions)
        mode = self.texts.selection_mode
        table = decisions.selection_table(self.ids, self.ranking, self.fraction, mode, self.decided)
        self.selected = np.array(table["selected"])
        signs = {name: 1 if act == INCLUDE else -1 for name, (act, _) in self.decided.texts.items()}
        self.person = np.array([signs.get(name, 0) for name in self.ids], np.int8)
        file = self.folder / SELECTION.name
        if self._journal and not decisions.is_current(pq.read_schema(file), self.decided):
            with atomic_write(file) as part:
                pq.write_table(table, part)

    @property
    def fraction(self) -> float:
        """Fraction of the texts that the score selects."""
        if self.decided.fraction is not None:
            return self.decided.fraction
        return float(self.texts.config.get("forget_fraction", 0.5))

    def threshold(self, fraction: float | None = None) -> float | None:
        """Confidence of the last text that the score selects; None if it selects at random."""
        if not self.ranking or self.texts.selection_mode == "random":
            return None
        count = top_count(self.fraction if fraction is None else fraction, len(self.ranking))
        return float(self.texts.column("confidence")[self.ranking[count - 1]])

    def count_changes(self, fraction: float) -> tuple[int, int]:
        """How many texts would enter and leave the selection with another fraction."""
        old, new = (top_count(f, len(self.ranking)) for f in (self.fraction, fraction))
        between = self.ranking[min(old, new) : max(old, new)]
        count = int((self.person[between] == 0).sum()) if between else 0
        return (count, 0) if new > old else (0, count)

    def decide(self, act: str, indices: Sequence[int] | np.ndarray, what: str) -> None:
        """Include or exclude texts whatever their score, or leave them to the score again.

        `act` is "include", "exclude" or "by score"; `what` describes the action.

        Raises:
            InputError: the review is read-only, the run has changed, or no text is left to decide.
        """
        if act == INCLUDE:
            finite = np.isfinite(self.texts.column("confidence"))
            indices = [index for index in indices if finite[index]]
        if act == BY_SCORE:
            indices = [index for index in indices if self.person[index]]
        if not len(indices):
            raise InputError("there is no text to decide on")
        self._write(Action(decisions.now(), act, [self.ids[i] for i in indices], None, what))

    def set_fraction(self, fraction: float) -> None:
        """Let the score select another fraction of the texts, in (0, 1].

        Raises:
            InputError: as in `decide`, or the fraction is out of range.
        """
        if not 0 < fraction <= 1:
            raise InputError(
                f"the share must be above 0 and at most 100 per cent, not {100 * fraction:g}"
            )
        if fraction != self.fraction:
            what = f"{self.fraction:.1%} -> {fraction:.1%} by the score"
            self._write(Action(decisions.now(), FRACTION, [], fraction, what))

    def undo(self) -> str:
        """Undo the last action, and return its description.

        Raises:
            InputError: as in `decide`, or there is nothing to undo.
        """
        if not self.actions:
            raise InputError("there is nothing to undo")
        what = self.actions[-1].what
        self._write(Action(decisions.now(), UNDO, [], None, f"undo: {what}"))
        return what

    def _write(self, action: Action) -> None:
        if self._journal is None:
            raise InputError(f"this review is read-only: {self.read_only}")
        with self.lock:
            if self.is_stale():
                self.reload()
                raise InputError(
                    "the run's texts, scores or selection have changed; check them, then try again"
                )
            self.previous = self.selected
            self._journal.write(decisions.to_line(action).encode())
            self._journal.flush()
            os.fsync(self._journal.fileno())
            decisions.add(self.actions, action)
            self._update_selection()
