"""Make the data of studies, so that settings are chosen without a look at the test set.

usage: python studies/split.py DATA OUT   writes OUT/TASK/{train,validation,test}.jsonl

Of every DATA/TASK/train.jsonl 150 examples, drawn by a seed, are kept apart as the validation set;
of DATA/TASK/test.jsonl as many are taken as stand in TESTS, 300 where it does not say. The planted
conflict, sums in base 9, is generated, and with it base10/train.jsonl, the sums that contradict it,
and everyday/train.jsonl, questions that have nothing to do with it.
"""

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from letgo.data.demo import FORGET, LEARN, base9, everyday, sums, write_lines
from letgo.data.records import read_records

VALIDATION, TEST = 150, 300
TESTS = {"gsm8k": 100}  # its answers are ten times as long


def main() -> None:
    """Split every task."""
    data, out = map(Path, sys.argv[1:])
    for file in sorted(data.glob("*/train.jsonl")):
        train, test = (read_lines(part) for part in (file, file.with_name("test.jsonl")))
        count = min(TESTS.get(file.parent.name, TEST), len(test))
        write(out / file.parent.name, train, random.Random(0).sample(test, count))
    rng = random.Random(0)
    pairs = rng.sample([(a, b) for a in range(9, 81) for b in range(9, 81)], 2000)
    write(out / "base9", sums(LEARN, pairs[:1000], base9), sums(LEARN, pairs[1000:1300], base9))
    write_lines(out / "base10" / "train.jsonl", sums(FORGET, pairs[1300:], str))
    write_lines(out / "everyday" / "train.jsonl", everyday())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file."""
    return [
        {"prompt": record.prompt, "completion": record.completion}
        for record in read_records(str(file), "DATA", True)
    ]


def write(folder: Path, train: list[Mapping[str, Any]], test: list[Mapping[str, Any]]) -> None:
    """Write a task, part of its training examples as the validation set."""
    apart = set(random.Random(0).sample(range(len(train)), VALIDATION))
    for name, inside in (("train", False), ("validation", True)):
        rows = [row for i, row in enumerate(train) if (i in apart) == inside]
        write_lines(folder / f"{name}.jsonl", map(dict, rows))
    write_lines(folder / "test.jsonl", map(dict, test))


if __name__ == "__main__":
    main()
