"""Names of data sets, and examples kept apart for validation and test."""

import random
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from letgo.data.records import SUFFIXES, Record

T = TypeVar("T")


# Names that say which part of a data set a file is, not which data set.
PART_NAMES = {"train", "test", "validation", "valid", "dev", "data", "prompts"}


# As a forgetting set: what the base model answers wrongly of the learning task itself.
MISTAKES, MISTAKES_SET = "learn:mistakes", "learn-mistakes"


# Among the sets that models are asked: text of no task, read and not answered.
NEUTRAL = "neutral"


def set_names(sources: Sequence[str]) -> list[str]:
    """A short, distinct name for each forgetting set: `dental/train.jsonl` is "dental"."""
    names: list[str] = []
    for source in sources:
        path = PurePosixPath(source.rstrip("/"))
        name = path.stem if path.suffix in SUFFIXES else path.name.replace(":", "-")
        if name in PART_NAMES and path.parent.name not in ("", ".."):
            name = path.parent.name
        count, distinct = 1, name
        while distinct in names:
            count += 1
            distinct = f"{name}-{count}"
        names.append(distinct)
    return names


def sample(records: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most `count` records drawn by `seed`, in their old order; all if `count` is None."""
    if count is None or count >= len(records):
        return list(records)
    kept = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[index] for index in kept]


def hold_out(
    records: Sequence[Record], seed: int, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """Keep a seeded tenth of the learning data apart, to test on or to decide by.

    Records that share a prompt stay on one side, so that no prompt kept apart is ever trained on.

    Args:
        records: at least two prompts.
        seed: of the draw.
        most: at most so many prompts.

    Returns:
        (learning records, records kept apart), each in the old order.
    """
    prompts = sorted({record.prompt for record in records})
    count = max(1, len(prompts) // 10)
    apart = set(random.Random(seed).sample(prompts, min(count, most or count)))
    return (
        [record for record in records if record.prompt not in apart],
        [record for record in records if record.prompt in apart],
    )
