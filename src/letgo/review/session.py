"""A run under review; every action is saved before the page shows it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from letgo.data.files import atomic_write
from letgo.data.splits import WRONG
from letgo.errors import InputError, first_line
from letgo.review.journal import Journal
from letgo.review.texts import open_review
from letgo.run import decisions
from letgo.run.audit import treatments
from letgo.run.decisions import BY_SCORE, FRACTION, INCLUDE, JOURNAL, UNDO, Action
from letgo.run.folder import AUDIT, SCORES, SELECTION, SELF_KNOWLEDGE, read_config, read_schema
from letgo.run.lock import exclusive
from letgo.scoring.scores import top_count


class Review:
    """The selection of the run in `folder`, and the actions that change it.

    While a review of a run is open, no other command can change the run.

    Attributes:
        texts: texts of the run, with scores.
        read_only: the reason why this review cannot take decisions; empty if it can.
        selected: (texts,) whether each text will be unlearned.
        previous: (texts,) `selected` before the last action.
        person: (texts,) 1 where a person included a text, -1 where excluded, else 0.
        ids, index_of: ids of the texts, and the index of each id.
        ranking: indices of the texts in the order in which the score selects them.
        actions: journal of the run without what was undone.
        audit: rows of `audit.parquet`, or None; `audit_ids` and `treatments` are theirs.
        decided: decisions that these actions leave in force.
        lock: held while an action is written.

    Raises:
        InputError: the folder is not a run, has no scores, or another command works in it; or its
            journal is not valid.
    """

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, RLock()
        self.read_only = ""
        self._journal: Journal | None = None
        self.texts, self.audit = open_review(folder)
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(folder, "letgo review"))
            except OSError as error:
                self.read_only = _unwritable(folder, error)
            self.reload()
            self._lock = stack.pop_all()

    def reload(self) -> None:
        """Read the run folder again.

        Raises:
            InputError: it cannot be read; the review is as before, and out of date.
        """
        with self.lock:
            version = self._file_version()
            (texts, audit), journal = open_review(self.folder), self._current_journal()
            self.audit = audit
            self.audit_ids = [] if audit is None else audit["id"].to_pylist()
            self.actions = decisions.read_actions(self.folder)
            self._journal, self._version = journal, version
            self.texts, self.ids, self.ranking = texts, texts.ids, texts.ranking()
            self.index_of = {name: index for index, name in enumerate(self.ids)}
            self._update_selection()
            self.previous = self.selected

    def close(self) -> None:
        """Release the run to other commands."""
        if self._journal:
            self._journal.close()
        self._lock.close()

    def _current_journal(self) -> Journal | None:
        """The open journal, opened anew if another file has its name; None if it is read-only."""
        if self.read_only or (self._journal and self._journal.is_unchanged()):
            return self._journal
        try:
            return Journal(self.folder)
        except OSError as error:
            self.read_only = _unwritable(self.folder, error)
            return None

    @property
    def warnings(self) -> list[str]:
        """What a person should know before deciding."""
        notes = [self._journal.note] if self._journal and self._journal.note else []
        if missing := len(self.decided.texts.keys() - self.index_of.keys() - {*self.audit_ids}):
            notes.append(
                f"{missing:,} decisions in {JOURNAL} are on texts that this run does not have; "
                f"they have no effect"
            )
        return notes

    def _file_version(self) -> list[Any]:
        """A value that changes with the texts, their scores or the settings of the selection."""
        try:
            names = [SELF_KNOWLEDGE.name, SCORES.name] if len(self.texts.table) else []
            names += [AUDIT.name] if self.audit is not None else []
            stats = [(self.folder / name).stat() for name in names]
        except OSError as error:
            raise InputError(
                f"{error.filename}: {error.strerror}; is the run still there?"
            ) from error
        config = read_config(self.folder)
        settings = [config.get(name) for name in ("forget_fraction", "selection", "seed")]
        return [*((stat.st_mtime_ns, stat.st_size) for stat in stats), settings]

    def is_stale(self) -> bool:
        """Whether the run or its journal was changed by anything else than this review."""
        return self._version != self._file_version() or self._has_other_journal()

    def _has_other_journal(self) -> bool:
        return self._journal is not None and not self._journal.is_unchanged()

    def _update_selection(self) -> None:
        """Apply the actions to the selection, in memory and in `selection.parquet`.

        Raises:
            InputError: `selection.parquet` cannot be written.
        """
        self.decided = decisions.combine(self.actions)
        mode = self.texts.selection_mode
        table = decisions.selection_table(self.ids, self.ranking, self.fraction, mode, self.decided)
        self.selected = np.array(table["selected"], bool)
        signs = {name: 1 if act == INCLUDE else -1 for name, (act, _) in self.decided.texts.items()}
        self.person = np.array([signs.get(name, 0) for name in self.ids], np.int8)
        self.treatments = self._treatments()
        file = self.folder / SELECTION.name
        if not self.ids:
            return
        if self._journal is None or self._is_saved(file):
            return
        try:
            with atomic_write(file) as part:
                pq.write_table(table, part)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({first_line(error)}); the decisions are in {JOURNAL}: "
                f"put that right, then start the review again"
            ) from error

    def _treatments(self) -> np.ndarray:
        """(audited examples,) whether each is kept, dropped or unlearned."""
        suspected = [] if self.audit is None else self.audit["suspected"].to_pylist()
        applies = WRONG in (self.texts.config.get("forget") or [])
        return np.array(treatments(self.audit_ids, suspected, applies, self.decided), str)

    def _is_saved(self, file: Path) -> bool:
        try:
            return decisions.is_current(read_schema(file), self.decided)
        except (InputError, OSError):
            return False  # damaged or gone

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

    def decide_learning(self, act: str, indices: Sequence[int] | np.ndarray, what: str) -> None:
        """Unlearn ("include"), learn ("exclude") or "drop" audited examples, or leave them.

        Raises:
            InputError: as in `decide`.
        """
        ids = [self.audit_ids[index] for index in indices]
        if act == BY_SCORE:
            ids = [name for name in ids if name in self.decided.texts]
        if not ids:
            raise InputError("there is no example to decide on")
        self._write(Action(decisions.now(), act, ids, None, what))

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
        with self.lock:
            if self._journal is None:
                raise InputError(f"this review is read-only: {self.read_only}")
            if self.is_stale():
                changed = "the run's texts, scores or selection have changed"
                if self._has_other_journal():
                    changed = f"{JOURNAL} was deleted or changed by something else than this review"
                self.reload()
                raise InputError(f"not saved: {changed}; check what is shown now, then try again")
            self._journal.append(action)
            self.previous = self.selected
            decisions.add(self.actions, action)
            self._update_selection()


def _unwritable(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written to ({error.strerror})"
