"""QASC and SST-5 for lm-evaluation-harness, in the words of letgo's own data.

The task files beside this one name these functions. Data come from the hub, or where `LETGO_DATA`
names a folder with TASK/train.jsonl and TASK/test.jsonl, from there, as they are.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from letgo.data.records import read_records
from letgo.evaluation.answers import correct, exact, letter

Row = dict[str, Any]


def qasc(hub: str, **_: Any) -> dict[str, Dataset]:
    """Learning and test documents of QASC; the hub's own test set has no answers."""
    return _documents("qasc", hub, {"train": "train", "test": "validation"}, _question)


def sst5(hub: str, **_: Any) -> dict[str, Dataset]:
    """Learning and test documents of SST-5; the hub's sentences are in lower case."""
    return _documents("sst5", hub, {"train": "train", "test": "test"}, _review)


def _documents(
    task: str, hub: str, splits: dict[str, str], put: Callable[[Row], Row]
) -> dict[str, Dataset]:
    """By split, rows of prompt and completion."""
    root = os.environ.get("LETGO_DATA")
    own = Path(root) / task if root else None
    documents = {}
    for name, split in splits.items():
        if own and own.is_dir():
            records = read_records(str(own / f"{name}.jsonl"), "LETGO_DATA", True)
            rows = [{"prompt": r.prompt, "completion": r.completion or ""} for r in records]
        else:
            rows = [put(row) for row in load_dataset(hub, split=split)]
        # Where a completion begins is the harness's business.
        rows = [{**row, "completion": row["completion"].strip()} for row in rows]
        documents[name] = Dataset.from_list(rows)
    return documents


def _question(row: Row) -> Row:
    choices = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
    listed = "\n".join(f"{label}. {text}" for label, text in choices.items())
    return {
        "prompt": "Answer the following multiple-choice science question.\n"
        f"Question: {row['question']}\n{listed}\nAnswer:",
        "completion": f"{row['answerKey']}. {choices[row['answerKey']]}",
    }


def _review(row: Row) -> Row:
    return {
        "prompt": "Classify the sentiment of the movie review as very negative, negative, "
        f"neutral, positive, or very positive.\nReview: {row['text']}\nSentiment:",
        "completion": row["label_text"],
    }


def choices(document: Row) -> list[str]:
    """The answers that a question lists: "A. oaks", "B. ..."."""
    return re.findall(r"^[A-Z]\. .+$", document["prompt"], re.MULTILINE)


def read_letter(document: Row, answers: list[str]) -> dict[str, float]:
    """Whether the answer has the right letter, as `letgo evaluate` reads it."""
    read = partial(letter, prompt=document["prompt"])
    return {"exact_match": float(correct(read, answers[0], document["completion"]))}


def read_text(document: Row, answers: list[str]) -> dict[str, float]:
    """Whether the answer is the right one word for word, as `letgo evaluate` reads it."""
    return {"exact_match": float(correct(exact, answers[0], document["completion"]))}
