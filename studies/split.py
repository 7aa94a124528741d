"""Keep a validation set apart, so that settings are chosen without a look at the test set.

usage: python studies/split.py DATA OUT   writes OUT/TASK/{train,validation}.jsonl

Of every DATA/TASK/train.jsonl a tenth, at most 300 examples, drawn by a seed.
"""

import random
import sys
from pathlib import Path


def main() -> None:
    """Split every task."""
    data, out = map(Path, sys.argv[1:])
    for file in sorted(data.glob("*/train.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = set(random.Random(0).sample(range(len(lines)), min(300, len(lines) // 10)))
        folder = out / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, inside in (("validation", True), ("train", False)):
            part = [line for i, line in enumerate(lines) if (i in kept) == inside]
            (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")


if __name__ == "__main__":
    main()
