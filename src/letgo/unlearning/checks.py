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
    names = [name for name in ("input_ids", "prompt_ids", "completion_ids")
             if name in dataset.column_names]  # fmt: skip
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


def examples(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The token ids of every example, and how many of them stand before the first label.

    Args:
        rows: `input_ids`, `labels`, and `seq_lengths` where several examples are packed into one.
    """
    for row in rows:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            ids = tuple(row["input_ids"][start : start + length])
            labels = (row.get("labels") or row["input_ids"])[start : start + length]
            yield ids, next((i for i, label in enumerate(labels) if label != -100), length)
            start += length


def prompts(rows: Iterable[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The token ids before the first label of every example, where there are any."""
    return [ids[:length] for ids, length in examples(rows) if length]


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
    lengths = {len(prompt) for prompt in given} - {1}
    asked: set[tuple[int, ...]] = set()
    for ids, length in examples(learning):
        begins = {ids[:length]} if length else {ids[:n] for n in lengths if n < len(ids)}
        asked |= begins & wanted
    count = sum(prompt in asked for prompt in given)
    said = f"{count} of {len(forget)} texts to unlearn answer a learning prompt"
    if count > most * len(forget):
        raise InputError(
            f"--forget: {said}, more than --forget_max_overlap {most:g}: unlearning them may undo "
            f"the learning; give other prompts, or raise it if that is meant"
        )
    if count:
        log.warning("%s", said)
