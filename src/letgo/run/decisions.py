"""People's decisions on which texts are unlearned, and the selection that follows from them.

`review.jsonl` in the run folder is a journal of actions, one line each. Lines are only appended: to
undo an action is an action too. `selection.parquet` is computed from the scores and the journal.
"""

import json
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import pyarrow as pa

from letgo.data.records import text_fingerprint
from letgo.data.splits import WRONG
from letgo.errors import InputError
from letgo.progress import log
from letgo.scoring.scores import ranked, top_count

JOURNAL = "review.jsonl"
INCLUDE, EXCLUDE, DROP, BY_SCORE = "include", "exclude", "drop", "by score"
FRACTION, UNDO = "fraction", "undo"
ACTS = (INCLUDE, EXCLUDE, DROP, BY_SCORE, FRACTION, UNDO)


class Action(NamedTuple):
    """One line of the journal; the fields are its JSON keys.

    Attributes:
        at: time, ISO 8601 in UTC.
        act: "include" or "exclude" (overrules the score), "drop" (a learning example is neither
            learned nor unlearned), "by score" (withdraws such a decision), "fraction" (changes the
            fraction that the score selects) or "undo" (of the last action not undone yet).
        ids: texts that the action applies to.
        fraction: the new fraction, in (0, 1].
        what: description for people.
    """

    at: str
    act: str
    ids: list[str]
    fraction: float | None
    what: str


class Decisions(NamedTuple):
    """Decisions that are in force.

    Attributes:
        texts: by text id, "include", "exclude" or "drop" and the time of the decision, which may be
            empty.
        fraction: fraction of the texts that the score selects; None for `--forget_fraction`.
    """

    texts: dict[str, tuple[str, str]]
    fraction: float | None

    @property
    def fingerprint(self) -> str | None:
        """Hash of the decisions without their times; None if there are none."""
        if not self.texts and self.fraction is None:
            return None
        acts = sorted((name, act) for name, (act, _) in self.texts.items())
        return text_fingerprint(json.dumps([acts, self.fraction]))


def now() -> str:
    """The current time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_line(action: Action) -> str:
    """An action as a line of the journal."""
    return json.dumps({key: value for key, value in action._asdict().items() if value}) + "\n"


def read_actions(folder: Path) -> list[Action]:
    """The actions of a run's journal that were not undone, oldest first.

    A last line that was cut off, by a process that was killed or a full disk, is left out with a
    warning.

    Raises:
        InputError: the journal cannot be read, or a line is not a valid action.
    """
    file = folder / JOURNAL
    try:
        whole, torn = split_torn(file.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}); fix that, or move it away to start over"
        ) from error
    if torn:
        _warn_once(f"{file} ends in half a line, which is not a decision; it is ignored")
    actions: list[Action] = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        try:
            if line.strip():
                add(actions, _parse(line))
        except (ValueError, RecursionError) as error:
            # The number is that of the line in the file; the line itself may be long.
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
            raise InputError(
                f"{file} line {number} is not a valid review entry ({reason}); fix it, or move the "
                f"file away to start over"
            ) from error
    return actions


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def split_torn(content: bytes) -> tuple[bytes, bytes]:
    """A journal without, and only, the last line if that was cut off while it was written.

    A last line that only lacks its newline is whole.
    """
    start = content.rfind(b"\n") + 1
    last = content[start:]
    try:
        json.loads(last or b"{}")
    except ValueError:
        if last.startswith(b"{"):
            return content[:start], last
    except RecursionError:
        pass  # not valid, and reported with its line number
    return content, b""


def _parse(line: bytes) -> Action:
    """A line of the journal as an action.

    Raises:
        ValueError, RecursionError: it is not one; the message says why.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}, column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError("it must be a JSON object")
    if unknown := row.keys() - {*Action._fields}:
        raise ValueError(f"unknown key {min(unknown)[:40]!r}")
    action = Action(**{"at": "", "act": "", "ids": [], "fraction": None, "what": "", **row})
    if action.act not in ACTS:
        raise ValueError(f"act must be one of {', '.join(ACTS)}")
    if not isinstance(action.ids, list) or not all(isinstance(name, str) for name in action.ids):
        raise ValueError("ids must be a list of strings")
    if action.act == DROP and not all(name.startswith(f"{WRONG}:") for name in action.ids):
        raise ValueError("only learning examples can be dropped")
    number = isinstance(action.fraction, int | float) and not isinstance(action.fraction, bool)
    missing = action.fraction is None and action.act != FRACTION
    if not missing and not (number and 0 < cast(float, action.fraction) <= 1):
        raise ValueError("fraction must be a number above 0 and at most 1")
    if not isinstance(action.what, str):
        raise ValueError("what must be a string")
    if not isinstance(action.at, str) or (action.at and not _is_time(action.at)):
        raise ValueError("at must be a time such as 2026-01-31T12:00:00Z")
    "".join([action.what, *action.ids]).encode()  # fails for half a surrogate pair
    return action


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key is there twice")
    return row


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def add(actions: list[Action], action: Action) -> None:
    """Append an action in place; an "undo" removes the last one instead."""
    if action.act != UNDO:
        actions.append(action)
    elif actions:
        actions.pop()


def combine(actions: Sequence[Action]) -> Decisions:
    """The decisions in force after these actions; later ones overrule earlier ones."""
    texts: dict[str, tuple[str, str]] = {}
    fraction = None
    for action in actions:
        if action.act == FRACTION:
            fraction = action.fraction
        elif action.act == BY_SCORE:
            for name in action.ids:
                texts.pop(name, None)
        else:
            texts.update(dict.fromkeys(action.ids, (action.act, action.at)))
    return Decisions(texts, fraction)


def read(folder: Path) -> Decisions:
    """The decisions in force for a run; empty if it has no journal.

    Raises:
        InputError: as in `read_actions`.
    """
    return combine(read_actions(folder))


def is_current(schema: pa.Schema, decided: Decisions) -> bool:
    """Whether a `selection.parquet` with this schema was computed from these decisions."""
    fingerprint: bytes = (schema.metadata or {}).get(b"decisions", b"")
    return fingerprint.decode() == (decided.fingerprint or "")


def rank(ids: Sequence[str], confidence: Sequence[float], mode: str, seed: int) -> list[int]:
    """Indices of the texts in the order of selection; texts without a finite score are left out.

    `mode` is "top", or one of the controls "bottom" and "random" (`--selection`, by `seed`).
    """
    finite = [i for i, value in enumerate(confidence) if math.isfinite(value)]
    values = [confidence[i] for i in finite]
    if mode == "bottom":
        values = [-value for value in values]
    elif mode == "random":
        draw = random.Random(seed)
        values = [draw.random() for _ in values]
    return [finite[i] for i in ranked([ids[i] for i in finite], values)]


def selection_table(
    ids: Sequence[str], ranking: Sequence[int], fraction: float, mode: str, decided: Decisions
) -> pa.Table:
    """The table of `selection.parquet`: `id, selected, reason, decided_by, decided_at`.

    Args:
        ranking: from `rank` with this `mode`; texts that are not in it are never selected.
        fraction: fraction of the ranking to select, unless the decisions hold another one.
        decided: the decisions; those on texts that are not in `ids` are ignored.
    """
    fraction = fraction if decided.fraction is None else decided.fraction
    count = top_count(fraction, len(ranking))
    above, below = f"{mode} {fraction:.4g}", f"not {mode} {fraction:.4g}"
    if mode == "top":
        above, below = f"{above} by confidence", f"below the top {fraction:.4g} by confidence"
    selected, reason = [False] * len(ids), ["no finite confidence"] * len(ids)
    by, at = ["score"] * len(ids), cast(list[str | None], [None] * len(ids))
    for position, index in enumerate(ranking):
        selected[index] = position < count
        reason[index] = above if position < count else below
        if (name := ids[index]) in decided.texts:
            act, time = decided.texts[name]
            at[index] = time or None
            by[index], reason[index] = "person", f"{act}d by a person"
            selected[index] = act == INCLUDE
    names = ("id", "selected", "reason", "decided_by", "decided_at")
    types = [(name, pa.bool_() if name == "selected" else pa.string()) for name in names]
    schema = pa.schema(types, {"decisions": decided.fingerprint or ""})
    return pa.table([ids, selected, reason, by, at], schema=schema)
