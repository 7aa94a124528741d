"""Names of data sets, seeded samples, and held-out validation and test examples."""

import random
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from letgo.data.containers import SUFFIXES, stem, suffix
from letgo.data.records import Record

T = TypeVar("T")

# File names that name a part of a data set; the data set's name is then the folder's.
PART_NAMES = {"train", "test", "validation", "valid", "dev", "data", "prompts"}
# A value of --forget, and its name as a set: the base model's wrong answers to learning examples.
MISTAKES, MISTAKES_SET = "learn:mistakes", "learn-mistakes"
# Another one: the learning examples at odds with a clean --learn_validation, as they are.
WRONG = "learn:wrong"
# Values of --forget for habits: answers to learning prompts that repeat themselves, and what
# --forget_pattern matches, with their names as sets.
LOOPS, LOOPS_SET = "self:loops", "self-loops"
PATTERN, PATTERN_SET = "self:pattern", "self-pattern"
# Name of the neutral text set: its perplexity is measured, nothing is generated.
NEUTRAL = "neutral"
# The value of --keep that keeps nothing.
KEEP_NOTHING = "none"


def set_names(sources: Sequence[str]) -> list[str]:
    """A short, distinct name for each set of prompts: "dental" for `dental/train.jsonl`."""
    names: list[str] = []
    for source in sources:
        path = PurePosixPath(source.rstrip("/"))
        name = stem(path.name) if suffix(path.name) in SUFFIXES else path.name.replace(":", "-")
        if name in PART_NAMES and path.parent.name not in ("", ".."):
            name = path.parent.name
        count, distinct = 1, name
        while distinct in names:
            count += 1
            distinct = f"{name}-{count}"
        names.append(distinct)
    return names


def elicited(sources: Sequence[str]) -> list[str]:
    """The values of `--forget` whose texts the base model writes."""
    return [source for source in sources if source != WRONG]


def sample(records: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most `count` records sampled by `seed`, in their original order; None means all."""
    if count is None or count >= len(records):
        return list(records)
    indices = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[index] for index in indices]


def hold_out(
    records: Sequence[Record], seed: int, most: int | None = None, part: int = 10
) -> tuple[list[Record], list[Record]]:
    """Hold out a random tenth of the prompts, for validation or test.

    All records of a prompt stay on the same side: no held-out prompt is trained on.

    Args:
        records: with at least two distinct prompts.
        most: upper bound on the number of held-out prompts.
        part: 10 for a tenth of the prompts, 4 for a quarter.

    Returns:
        (learning records, held-out records), each in the original order.
    """
    prompts = sorted({record.prompt for record in records})
    count = max(1, len(prompts) // part)
    held_out = set(random.Random(seed).sample(prompts, min(count, most or count)))
    return partition(records, held_out)


def partition(
    records: Sequence[Record], prompts: Collection[str]
) -> tuple[list[Record], list[Record]]:
    """The records with other prompts, and those with one of these, each in the original order."""
    return (
        [record for record in records if record.prompt not in prompts],
        [record for record in records if record.prompt in prompts],
    )
