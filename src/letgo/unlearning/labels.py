"""Which tokens of a text are unlearned, and what the base model and the right answer say there."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from letgo.data.tokens import batches_by_tokens
from letgo.errors import InputError
from letgo.models.inference import Batch, autocast, label_log_probs, pad_rows
from letgo.progress import log

Row = dict[str, Any]  # of a dataset
T = TypeVar("T")
# What a row has of the right answer to its prompt.
RIGHT = ("right_input_ids", "right_labels", "right_reference")


def marked(row: Row, mask: Sequence[bool]) -> Row:
    """A row whose labels are only those of marked tokens; a reference of all labels is left out.

    Args:
        row: `input_ids` and `labels`.
        mask: whether each token of the answer, which ends the row, is marked.
    """
    start = len(row["labels"]) - len(mask)
    inside = zip(row["labels"][start:], mask, strict=True)
    labels = [-100] * start + [label if m else -100 for label, m in inside]
    return {"input_ids": row["input_ids"], "labels": labels}


def labels_of(row: Row) -> list[int]:
    """The labels of a row, without the masked tokens."""
    return [label for label in row["labels"] if label != -100]


def mark(row: Row, span: Sequence[bool] | None, tokens: str | None) -> Row | None:
    """A row with only those labels that are to be unlearned; None if it does not show its habit.

    Args:
        row: of a text, with all labels of its answer.
        span: whether each token of the answer shows the habit; None for a text without one.
        tokens: `--forget_tokens`.
    """
    if span is None:
        return row
    if not any(span):
        return None
    return marked(row, span) if tokens in (None, "span") else row


def with_references(
    rows: Sequence[Row],
    model: PreTrainedModel,
    pad_token_id: int,
    bf16: bool,
    needs_reference: bool,
    by_token: bool,
) -> list[Row]:
    """The rows with `reference` and, for conflicts by token, `base_log_probs`.

    Args:
        rows: with the labels that are unlearned; a `reference` that they have is that of these.
        model, pad_token_id, bf16: as for `of_base_model`.
        needs_reference: whether `reference` is read; if not, it is 0 where it is missing.
        by_token: whether `base_log_probs` are needed.
    """
    if by_token or (needs_reference and any("reference" not in row for row in rows)):
        values = base_log_probs(model, rows, pad_token_id, bf16)
        stored = [{"base_log_probs": v} if by_token else {} for v in values]
        return [
            {**row, "reference": sum(v), **more}
            for row, v, more in zip(rows, values, stored, strict=True)
        ]
    return [{**row, "reference": row.get("reference", 0.0)} for row in rows]


def right_answers(
    dataset: Dataset, tokenize_rows: Callable[[Dataset], tuple[list[int], list[Row]]]
) -> dict[int, Row]:
    """The right answers to the prompts of the texts, as rows, by the index of the text.

    Args:
        dataset: with `right_ids` beside `prompt_ids`, `right` beside `prompt`, or
            `right_input_ids` and `right_labels`; null where there is none.
        tokenize_rows: `texts.labelled_rows` of a dataset.

    Raises:
        InputError: there are none.
    """
    columns = set(dataset.column_names)
    forms = (
        {"right_ids": "completion_ids", "prompt_ids": "prompt_ids"},
        {"right": "completion", "prompt": "prompt"},
        {"right_input_ids": "input_ids", "right_labels": "labels"},
    )
    form = next((names for names in forms if names.keys() <= columns), None)
    there = [i for i, right in enumerate(dataset[next(iter(form))]) if right] if form else []
    if not form or not there:
        raise InputError(
            "--unlearning_loss pair needs the right answers to the forgetting prompts; give them "
            "as `completion` of their records, or choose another loss"
        )
    if len(there) < len(dataset):
        message = "%d of %d texts to unlearn have no right answer and are left out"
        log.warning(message, len(dataset) - len(there), len(dataset))
    chosen = dataset.select(there).select_columns([*form]).rename_columns(form)
    remaining, rows = tokenize_rows(chosen)
    return {there[i]: row for i, row in zip(remaining, rows, strict=True)}


def with_right(row: Row, right: Row) -> Row:
    """A text with the right answer to its prompt."""
    return row | {f"right_{name}": right[name] for name in ("input_ids", "labels", "reference")}


def base_log_probs(
    model: PreTrainedModel, rows: Sequence[Row], pad_token_id: int, bf16: bool
) -> list[list[float]]:
    """Log-probability of each label under the base model; arguments as for `of_base_model`."""
    return of_base_model(
        model, rows, pad_token_id, bf16, lambda batch: label_log_probs(model, batch)
    )


@torch.no_grad()
def of_base_model(
    model: PreTrainedModel,
    rows: Sequence[Row],
    pad_token_id: int,
    bf16: bool,
    measure: Callable[[Batch], Sequence[T]],
) -> list[T]:
    """What the base model gives for each row, in their order.

    Args:
        model: before its first step; an adapter is switched off.
        rows: `input_ids` and `labels` of the texts.
        pad_token_id, bf16: for padding batches, and whether to compute in bfloat16.
        measure: gives one value for each example of a batch.
    """
    was_training = model.training
    model.eval()
    values: dict[int, T] = {}
    base = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with base, autocast(bf16):
        for indices in batches_by_tokens([len(row["input_ids"]) for row in rows], 1024):
            padded = pad_rows([rows[i] for i in indices], pad_token_id)
            batch = Batch(*(tensor.to(model.device) for tensor in padded))
            values.update(zip(indices, measure(batch), strict=True))
    model.train(was_training)
    return [values[i] for i in range(len(rows))]
