"""Whether the right answer is the likeliest option: it tells knowledge from the form of answers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from letgo.data.records import Record
from letgo.data.tokens import example_ids, training_row
from letgo.evaluation.answers import exact
from letgo.evaluation.same_answer import options_of
from letgo.models.inference import LanguageModel

BATCH = 32


def options_of_records(records: Sequence[Record]) -> list[list[str]]:
    """The options of each record of a set that has a right answer; empty without options.

    They are its choices, if the right answer is one of them; for records without choices those of
    `options_of`.
    """
    right = [exact(record.completion or "") for record in records]
    choices = [[exact(choice) for choice in record.choices] for record in records]
    options = [own if r in own else [] for own, r in zip(choices, right, strict=True)]
    others = [i for i, own in enumerate(choices) if not own]
    found = options_of([records[i].prompt for i in others], [right[i] for i in others])
    for i, own in zip(others, found or [], strict=False):
        options[i] = own
    return options


class Question(NamedTuple):
    """A prompt, its right answer, and its options, of which there may be none."""

    prompt: str
    right: str
    options: Sequence[str]


class Likeliest(NamedTuple):
    """Whether the right answer is the likeliest of its options; None without options.

    Attributes:
        per_token: by the mean log-likelihood of a token, so that length does not count.
        whole: by the log-likelihood of the whole answer.
    """

    per_token: bool | None
    whole: bool | None


def likeliest(lm: LanguageModel, questions: Sequence[Question]) -> list[Likeliest]:
    """For each question whether its right answer is the likeliest option.

    There is no saying where an option does not fit into the context.
    """
    rows = [
        training_row(*example_ids(lm.tokenizer, question.prompt, option))
        for question in questions
        for option in question.options
    ]
    nll: list[float] = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        fits = [row for row in part if len(row["input_ids"]) <= lm.limit]
        found = iter(lm.losses(fits) if fits else [])
        nll += [next(found) if len(row["input_ids"]) <= lm.limit else math.inf for row in part]
    tokens = [sum(label != -100 for label in row["labels"]) for row in rows]
    results, start = [], 0
    for question in questions:
        end = start + len(question.options)
        means = nll[start:end]
        sums = [mean * n for mean, n in zip(means, tokens[start:end], strict=True)]
        results.append(Likeliest(_is_least(question, means), _is_least(question, sums)))
        start = end
    return results


def _is_least(question: Question, nll: Sequence[float]) -> bool | None:
    if not nll or any(map(math.isinf, nll)):
        return None
    least = min(zip(nll, question.options, strict=True))
    return least[1] == " ".join(question.right.split())
