"""Fetch the studies' data sets from the Hugging Face Hub, for machines that have no copy of them.

usage: python studies/hub.py DATA   writes DATA/TASK/{train,test}.jsonl; tasks that are there stay

4000 training and 1000 test examples at most, drawn by a seed. The copies that the committed results
come from are of the same data sets, by other ways: sst5 with capitals, dental a split of MedMCQA's
validation set alone.
"""

import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import load_dataset

from letgo.data.demo import write_lines

MOST = {"train": 4000, "test": 1000}
TEST = 300  # of a data set that has no training set
Row = dict[str, Any]


def gsm8k(row: Row) -> Row:
    """The worked answer, without what a calculator would say."""
    worked = re.sub(r"<<.*?>>", "", row["answer"])
    return asked(
        "Solve the following math problem step by step.\nQuestion",
        row["question"],
        "Answer",
        worked,
    )


def sst5(row: Row) -> Row:
    """The class by its name."""
    task = (
        "Classify the sentiment of the movie review as very negative, negative, neutral, "
        "positive, or very positive.\nReview"
    )
    return asked(task, row["text"], "Sentiment", row["label_text"])


def qasc(row: Row) -> Row:
    """Eight options."""
    answer = row["choices"]["label"].index(row["answerKey"])
    return choice("science", row["question"], row["choices"]["text"], answer)


def dental(row: Row) -> Row | None:
    """Four options; None for a question of another subject."""
    if row["subject_name"] != "Dental":
        return None
    return choice("dentistry", row["question"], [row[f"op{x}"] for x in "abcd"], row["cop"])


def psychol(row: Row) -> Row:
    """Four options."""
    return choice("psychology", row["question"], row["choices"], row["answer"])


def choice(field: str, question: str, options: list[str], answer: int) -> Row:
    """A multiple-choice question; the answer is a letter with its option."""
    lines = [f"{letter}. {option}" for letter, option in zip("ABCDEFGH", options, strict=False)]
    return asked(
        f"Answer the following multiple-choice {field} question.\nQuestion",
        "\n".join([question, *lines]),
        "Answer",
        lines[answer],
    )


def asked(task: str, question: str, label: str, answer: str) -> Row:
    """The prompt that all tasks share."""
    return {"prompt": f"{task}: {question.strip()}\n{label}:", "completion": f" {answer.strip()}"}


# Of each task its parts on the Hub (repository, configuration, split), those of the training and of
# the test set; without the latter they are split here. And what makes an example of a row.
Parts = list[tuple[str, str | None, str]]
SOURCES: dict[str, tuple[Parts, Parts, Callable[[Row], Row | None]]] = {
    "gsm8k": ([("openai/gsm8k", "main", "train")], [("openai/gsm8k", "main", "test")], gsm8k),
    "qasc": ([("allenai/qasc", None, "train")], [("allenai/qasc", None, "validation")], qasc),
    "sst5": ([("SetFit/sst5", None, "train")], [("SetFit/sst5", None, "test")], sst5),
    "dental": (
        [("openlifescienceai/medmcqa", None, "train")],
        [("openlifescienceai/medmcqa", None, "validation")],
        dental,
    ),
    "psychol": (
        [
            ("cais/mmlu", f"{level}_psychology", split)
            for level in ("high_school", "professional")
            for split in ("dev", "test")
        ],
        [],
        psychol,
    ),
}


def examples(parts: Parts, make: Callable[[Row], Row | None]) -> list[Row]:
    """All examples of these parts, each prompt once, in an order drawn by a seed."""
    rows: Iterable[Row] = (
        row
        for repository, configuration, split in parts
        for row in load_dataset(repository, configuration, split=split)
    )
    made = filter(None, map(make, rows))
    found = list({example["prompt"]: example for example in made}.values())
    random.Random(0).shuffle(found)
    return found


def main() -> None:
    """Fetch every task that is not there."""
    root = Path(sys.argv[1])
    for task, (training, testing, make) in SOURCES.items():
        if (root / task / "test.jsonl").exists():  # the last that is written
            continue
        train = examples(training, make)
        test = examples(testing, make) if testing else train[:TEST]
        known = {example["prompt"] for example in test}
        train = [example for example in train if example["prompt"] not in known]
        write_lines(root / task / "train.jsonl", train[: MOST["train"]])
        write_lines(root / task / "test.jsonl", test[: MOST["test"]])
        print(f"{task}: {len(train)} and {len(test)} examples", flush=True)


if __name__ == "__main__":
    main()
