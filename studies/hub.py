"""Fetch the studies' data sets from the Hugging Face Hub.

usage: python studies/hub.py DATA   writes DATA/TASK/{train,test}.jsonl; existing tasks are skipped

At most 4000 training and 1000 test examples per task, drawn by a seed. The committed results were
made with local copies of the same data sets that differ in details: sst5 has capital letters, and
dental is a split of MedMCQA's validation set only.
"""

import argparse
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import load_dataset

from letgo.data.files import write_lines

MOST = {"train": 4000, "test": 1000}
TEST = 300  # test examples of a data set without a test set
Row = dict[str, Any]


def gsm8k(row: Row) -> Row:
    """The worked answer, without the calculator annotations `<<...>>`."""
    worked = re.sub(r"<<.*?>>", "", row["answer"])
    return example(
        "Solve the following math problem step by step.\nQuestion",
        row["question"],
        "Answer",
        worked,
    )


def sst5(row: Row) -> Row:
    """The sentiment class as a word."""
    task = (
        "Classify the sentiment of the movie review as very negative, negative, neutral, "
        "positive, or very positive.\nReview"
    )
    return example(task, row["text"], "Sentiment", row["label_text"])


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
    return example(
        f"Answer the following multiple-choice {field} question.\nQuestion",
        "\n".join([question, *lines]),
        "Answer",
        lines[answer],
    )


def example(task: str, question: str, label: str, answer: str) -> Row:
    """An example in the form of all tasks."""
    return {"prompt": f"{task}: {question.strip()}\n{label}:", "completion": f" {answer.strip()}"}


# By task: (repository, configuration, split) of its training data and of its test data, which are
# split off the training data if there are none, and the function that turns a row into an example.
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
    """The examples of these parts without duplicate prompts, shuffled by a seed."""
    rows: Iterable[Row] = (
        row
        for repository, configuration, split in parts
        for row in load_dataset(repository, configuration, split=split)
    )
    made = filter(None, map(make, rows))
    unique = list({row["prompt"]: row for row in made}.values())
    random.Random(0).shuffle(unique)
    return unique


def main() -> None:
    """Fetch every task whose files do not exist yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    root = parser.parse_args().data
    for task, (training, testing, make) in SOURCES.items():
        if (root / task / "test.jsonl").exists():  # written last
            continue
        train = examples(training, make)
        test = examples(testing, make) if testing else train[:TEST]
        tested = {row["prompt"] for row in test}
        train = [row for row in train if row["prompt"] not in tested]
        write_lines(root / task / "train.jsonl", train[: MOST["train"]])
        write_lines(root / task / "test.jsonl", test[: MOST["test"]])
        print(f"{task}: {len(train)} and {len(test)} examples", flush=True)


if __name__ == "__main__":
    main()
