"""Split the studies' data into training, validation and test sets.

usage: python studies/split.py DATA OUT   writes OUT/TASK/{train,validation,test}.jsonl

The validation set, 150 examples drawn from DATA/TASK/train.jsonl by a seed, is for choosing
settings. The test set is 300 examples of DATA/TASK/test.jsonl (see TESTS for exceptions). The
planted conflict is generated: base9, sums in base 9; base10/train.jsonl, the sums that contradict
them; and everyday/train.jsonl, questions unrelated to either.
"""

import argparse
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from letgo.data.base9 import FORGET, LEARN, base9, everyday, sums
from letgo.data.files import write_lines
from letgo.data.records import read_records

VALIDATION, TEST = 150, 300
TESTS = {"gsm8k": 100}  # its answers are ten times as long as the others


def main() -> None:
    """Split every task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data, out = arguments.data, arguments.out
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
    """Write a task's three files; the validation set is drawn from the training examples."""
    validation = set(random.Random(0).sample(range(len(train)), VALIDATION))
    for name, inside in (("train", False), ("validation", True)):
        rows = [row for i, row in enumerate(train) if (i in validation) == inside]
        write_lines(folder / f"{name}.jsonl", map(dict, rows))
    write_lines(folder / "test.jsonl", map(dict, test))


if __name__ == "__main__":
    main()
