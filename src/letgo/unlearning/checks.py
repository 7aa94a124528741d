"""Whether texts can be unlearned beside this learning data, by this tokenizer's tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset

from letgo.errors import InputError
from letgo.progress import log


def check_tokens(dataset: Dataset, tokenizer: Any, vocabulary: int) -> None:
    """Refuse texts that another tokenizer has made.

    Args:
        dataset: rows as `letgo elicit` writes them, or with `input_ids`; others pass.
        tokenizer: of the model to be trained.
        vocabulary: how many tokens the model has.

    Raises:
        InputError: a token that the model does not have, or one that stands for another text.
    """
    names = [
        name
        for name in ("input_ids", "prompt_ids", "completion_ids")
        if name in dataset.column_names
    ]
    remedy = "elicit the texts again with this model (`letgo elicit`)"
    for row in dataset:
        highest = max((max(row[name], default=0) for name in names), default=0)
        if highest >= vocabulary:
            raise InputError(
                f"--forget: the texts are from another tokenizer: they hold token {highest}, this "
                f"one has {len(tokenizer)}; {remedy}"
            )
        if "completion_ids" in names and isinstance(row.get("completion"), str):
            text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
            if text != row["completion"]:
                raise InputError(
                    f"--forget: the texts are from another tokenizer: the tokens of "
                    f"{row['completion'][:40]!r} stand for {text[:40]!r} in this one; {remedy}"
                )


def examples(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, list[int]]]:
    """Every example as a row of `input_ids` and `labels`.

    Args:
        rows: `input_ids`, `labels` (else all tokens are), and `seq_lengths` where several examples
            are packed into one.
    """
    for row in rows:
        start = 0
        labels = row.get("labels") or row["input_ids"]
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            yield {"input_ids": list(row["input_ids"][part]), "labels": list(labels[part])}
            start += length


def prompt(row: dict[str, list[int]]) -> tuple[int, ...]:
    """The token ids before the first label of an example."""
    labels = row["labels"]
    first = next((i for i, label in enumerate(labels) if label != -100), len(labels))
    return tuple(row["input_ids"][:first])


def prompts(rows: Iterable[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The prompts of all examples that have one."""
    return [found for found in map(prompt, examples(rows)) if found]


def check_overlap(
    learning: Iterable[dict[str, Any]], forget: Sequence[dict[str, Any]], most: float
) -> None:
    """Count the texts to unlearn that answer a prompt of the learning data.

    Args:
        learning, forget: rows as for `examples`. A learning example without a masked prompt (whole
            conversations, plain text) may begin with any; a lone token, as of a beginning of a
            text, is no prompt then.
        most: share of them that may.

    Raises:
        InputError: they are more.
    """
    given = prompts(forget)
    wanted = set(given)
    lengths = {len(text) for text in given} - {1}
    asked: set[tuple[int, ...]] = set()
    for row in examples(learning):
        ids, own = tuple(row["input_ids"]), prompt(row)
        begins = {own} if own else {ids[:n] for n in lengths if n < len(ids)}
        asked |= begins & wanted
    count = sum(text in asked for text in given)
    said = f"{count} of {len(forget)} texts to unlearn answer a learning prompt"
    if count > most * len(forget):
        raise InputError(
            f"--forget: {said}, more than --forget_max_overlap {most:g}: unlearning them may undo "
            f"the learning; give other prompts, or raise it if that is meant"
        )
    if count:
        log.warning("%s", said)
