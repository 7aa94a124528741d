"""People's decisions on which texts are unlearned, and the selection that follows from them.

`review.jsonl` in the run folder is a journal of actions, one line each. Lines are only appended: to
undo an action is an action too. `selection.parquet` is computed from the scores and the journal.
"""

import json
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import pyarrow as pa

from letgo.data.records import text_fingerprint
from letgo.errors import InputError
from letgo.scoring.scores import ranked, top_count

JOURNAL = "review.jsonl"
INCLUDE, EXCLUDE, BY_SCORE, FRACTION, UNDO = "include", "exclude", "by score", "fraction", "undo"


class Action(NamedTuple):
    """One line of the journal; the fields are its JSON keys.

    Attributes:
        at: time, ISO 8601 in UTC.
        act: "include" or "exclude" (overrules the score), "by score" (withdraws such a decision),
            "fraction" (changes the fraction that the score selects) or "undo" (of the last action
            not undone yet).
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
        texts: by text id, "include" or "exclude" and the time of the decision.
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

    An incomplete last line, left by a process that was killed, is ignored.

    Raises:
        InputError: a line is not a valid action.
    """
    file = folder / JOURNAL
    actions: list[Action] = []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = {"at": "", "ids": [], "fraction": None, "what": "", **json.loads(line)}
            add(actions, Action(**row))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{file} line {number} is not a valid review entry; fix it, or move the file away "
                f"to start over"
            ) from error
    return actions


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
            act, at[index] = decided.texts[name]
            by[index], reason[index] = "person", f"{act}d by a person"
            selected[index] = act == INCLUDE
    names = ("id", "selected", "reason", "decided_by", "decided_at")
    types = [(name, pa.bool_() if name == "selected" else pa.string()) for name in names]
    schema = pa.schema(types, {"decisions": decided.fingerprint or ""})
    return pa.table([ids, selected, reason, by, at], schema=schema)
