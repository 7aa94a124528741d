"""Which texts are to be forgotten: the score's choice, and what people have decided over it.

People's decisions stand in `review.jsonl` in the run folder, a line for each act, and are only ever
added to: an act that is taken back stays, followed by a line that says so. `selection.parquet`
follows from the scores and that journal.
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


class Act(NamedTuple):
    """One line of the journal.

    Attributes:
        at: when, ISO 8601 in UTC.
        act: "include" or "exclude" (whatever the score says), "by score" (a decision withdrawn),
            "fraction" (another share for the score to choose) or "undo" (of the last standing act).
        ids: the texts it is about.
        fraction: the share, in (0, 1].
        what: the act in words.
    """

    at: str
    act: str
    ids: list[str]
    fraction: float | None
    what: str


class Decisions(NamedTuple):
    """What people have decided and not taken back.

    Attributes:
        texts: by id, "include" or "exclude" and when.
        fraction: the share that the score may choose; None where it is still `--forget_fraction`.
    """

    texts: dict[str, tuple[str, str]]
    fraction: float | None

    @property
    def fingerprint(self) -> str | None:
        """A digest of what was decided, not of when; None if nothing was."""
        if not self.texts and self.fraction is None:
            return None
        said = sorted((name, which) for name, (which, _) in self.texts.items())
        return text_fingerprint(json.dumps([said, self.fraction]))


def now() -> str:
    """The time, ISO 8601 in UTC, in seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def line_of(act: Act) -> str:
    """An act as a line of the journal."""
    return json.dumps({key: value for key, value in act._asdict().items() if value}) + "\n"


def acts(folder: Path) -> list[Act]:
    """The acts that stand, in their order; one that was not written to its end never happened.

    Raises:
        InputError: a line that letgo has not written.
    """
    file = folder / JOURNAL
    standing: list[Act] = []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = {"at": "", "ids": [], "fraction": None, "what": "", **json.loads(line)}
            act = Act(**row)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{file} line {number} is no decision of letgo's; repair it, or move the file away "
                f"to decide anew"
            ) from error
        add(standing, act)
    return standing


def add(standing: list[Act], act: Act) -> None:
    """Put an act, or the undoing of the last, to those that stand."""
    if act.act != UNDO:
        standing.append(act)
    elif standing:
        standing.pop()


def combine(standing: Sequence[Act]) -> Decisions:
    """What follows from acts, later ones over earlier ones."""
    texts: dict[str, tuple[str, str]] = {}
    fraction = None
    for act in standing:
        if act.act == FRACTION:
            fraction = act.fraction
        elif act.act == BY_SCORE:
            for name in act.ids:
                texts.pop(name, None)
        else:
            texts.update(dict.fromkeys(act.ids, (act.act, act.at)))
    return Decisions(texts, fraction)


def read(folder: Path) -> Decisions:
    """What people have decided about a run; nothing where there is no journal.

    Raises:
        InputError: as `acts`.
    """
    return combine(acts(folder))


def is_current(schema: pa.Schema, decided: Decisions) -> bool:
    """Whether a `selection.parquet` with this schema was made from these decisions."""
    mark: bytes = (schema.metadata or {}).get(b"decisions", b"")
    return mark.decode() == (decided.fingerprint or "")


def order(ids: Sequence[str], confidence: Sequence[float], which: str, seed: int) -> list[int]:
    """Places of the texts in the order in which the score chooses them, without undefined scores.

    Args:
        ids: of all texts.
        confidence: in the same order.
        which: "top", or as controls "bottom" or "random" (`--selection`).
        seed: of the random order.
    """
    finite = [i for i, value in enumerate(confidence) if math.isfinite(value)]
    values = [confidence[i] for i in finite]
    if which == "bottom":
        values = [-value for value in values]
    elif which == "random":
        draw = random.Random(seed)
        values = [draw.random() for _ in values]
    return [finite[i] for i in ranked([ids[i] for i in finite], values)]


def selection(
    ids: Sequence[str], ranking: Sequence[int], fraction: float, which: str, decided: Decisions
) -> pa.Table:
    """The content of `selection.parquet`.

    Args:
        ids: of all texts.
        ranking: from `order`.
        fraction: share that the score chooses, unless a person has said another.
        which: as for `order`.
        decided: what people have decided; texts without a defined score stay out all the same, and
            decisions on texts that are not there are passed over.
    """
    fraction = fraction if decided.fraction is None else decided.fraction
    count = top_count(fraction, len(ranking))
    above, below = f"{which} {fraction:.4g}", f"not {which} {fraction:.4g}"
    if which == "top":
        above, below = f"{above} by confidence", f"below the top {fraction:.4g} by confidence"
    selected, reason = [False] * len(ids), ["no finite confidence"] * len(ids)
    by, at = ["score"] * len(ids), cast(list[str | None], [None] * len(ids))
    for rank, place in enumerate(ranking):
        selected[place], reason[place] = rank < count, above if rank < count else below
        if (name := ids[place]) in decided.texts:
            said, at[place] = decided.texts[name]
            by[place], reason[place] = "person", f"{said}d by a person"
            selected[place] = said == INCLUDE
    columns = {
        "id": pa.array(ids, pa.string()),
        "selected": pa.array(selected, pa.bool_()),
        "reason": pa.array(reason, pa.string()),
        "decided_by": pa.array(by, pa.string()),
        "decided_at": pa.array(at, pa.string()),
    }
    return pa.table(columns).replace_schema_metadata({"decisions": decided.fingerprint or ""})
