"""An audit's table of learning examples, and what becomes of each of them in training."""

from collections.abc import Sequence
from pathlib import Path

from letgo.data.splits import WRONG
from letgo.run.decisions import DROP, EXCLUDE, INCLUDE, Decisions
from letgo.run.folder import AUDIT, Row, read_table, require

# What becomes of a learning example; a decision of a review says it in the words of decisions.py.
KEEP, UNLEARN = "keep", "unlearn"
TREATMENTS = {INCLUDE: UNLEARN, EXCLUDE: KEEP, DROP: DROP}


def audit_id(record_id: str) -> str:
    """The id of a learning example in `audit.parquet` and in the journal of a review."""
    return f"{WRONG}:{record_id}"


def read_audit(folder: Path) -> list[Row]:
    """The rows of `audit.parquet`, those most at odds with the clean examples first.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    return read_table(require(folder, AUDIT)).to_pylist()


def treatments(
    ids: Sequence[str], suspected: Sequence[bool], applies: bool, decided: Decisions
) -> list[str]:
    """What becomes of each audited example: "keep", "unlearn" or "drop".

    Args:
        ids, suspected: columns of `audit.parquet`.
        applies: whether the run unlearns what the audit suspects (`--forget learn:wrong`).
        decided: people's decisions, which take precedence.
    """
    by_score = [UNLEARN if applies and bad else KEEP for bad in suspected]
    person = {name: TREATMENTS[act] for name, (act, _) in decided.texts.items()}
    return [person.get(name, default) for name, default in zip(ids, by_score, strict=True)]


def has_decisions(decided: Decisions) -> bool:
    """Whether a person has decided on a learning example."""
    return any(name.startswith(f"{WRONG}:") for name in decided.texts)
