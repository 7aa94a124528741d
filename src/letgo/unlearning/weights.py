"""The column `weight` of learning data, from 1 (learn) to -1 (unlearn); it scales a loss.

Examples with a weight below 0 become texts to unlearn, with all guards; those of weight 0 are left
out.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import SFTConfig

from letgo.data.weights import weight_of
from letgo.errors import InputError
from letgo.unlearning.labels import Row
from letgo.unlearning.losses import TextBatch
from letgo.unlearning.texts import labelled_rows

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer

WEIGHT = "weight"
FLAGS = ("selected", "allowed", "forced")  # columns of `texts.choose`


def check_weights(args: SFTConfig, padding_free: bool) -> None:
    """Refuse settings with which an example has no loss of its own that could be scaled.

    Raises:
        InputError: names the setting.
    """
    problems = {
        "--packing": args.packing or padding_free,
        f"--loss_type {args.loss_type}": args.loss_type != "nll",
        "--label_smoothing_factor": bool(args.label_smoothing_factor),
    }
    for name, is_set in problems.items():
        if is_set:
            raise InputError(f"{name} does not work with a column 'weight' of the learning data")


def use_weights(trainer: "LWFTrainer", learning: Any, forget: Dataset | None) -> Dataset | None:
    """Let a trainer scale learning examples by their `weight`, if they have one.

    Args:
        learning: the learning data as they were given to the trainer.
        forget: its texts to unlearn.

    Returns:
        these texts, and the examples with a weight below 0.

    Raises:
        InputError: a weight, or a setting, cannot be used.
    """
    if WEIGHT not in (getattr(learning, "column_names", None) or []):
        return forget
    check_weights(trainer.args, trainer.padding_free)
    trainer.train_dataset, negative = split(trainer.train_dataset)
    trainer.data_collator = WeightedBatches(trainer.data_collator)
    return with_negative(forget, negative, trainer._tokenize_texts)


def split(learning: Dataset) -> tuple[Dataset, list[Row]]:
    """The examples to learn, and those to unlearn as rows of a `forget_dataset`.

    Args:
        learning: rows with `input_ids`, and perhaps with `weight`.

    Raises:
        InputError: a weight is not a number from -1 to 1, or none is above 0.
    """
    if WEIGHT not in learning.column_names:
        return learning, []
    weights: list[float] = []
    for number, value in enumerate(learning[WEIGHT]):
        try:
            weights.append(weight_of(value))
        except InputError as error:
            raise InputError(f"train_dataset (--learn): row {number}: {error}") from error
    positive = [i for i, weight in enumerate(weights) if weight > 0]
    if not positive:
        raise InputError("train_dataset (--learn): no example has a 'weight' above 0")
    negative = learning.select([i for i, weight in enumerate(weights) if weight < 0])
    flags = dict.fromkeys(FLAGS, True)
    rows = [
        {
            "input_ids": row["input_ids"],
            "labels": row.get("labels") or row["input_ids"],
            WEIGHT: -weight_of(row[WEIGHT]),
            **flags,
        }
        for row in negative
    ]
    return learning.select(positive), rows


def with_negative(
    forget: Dataset | None, negative: list[Row], tokenize: Callable[[Dataset], Dataset]
) -> Dataset | None:
    """The texts to unlearn and the learning examples of negative weight, which are always chosen.

    Args:
        forget, tokenize: as for `texts.labelled_rows`.
    """
    if not negative:
        return forget
    rows: list[Row] = []
    if forget is not None:
        indices, texts = labelled_rows(forget, tokenize)
        plain = dict.fromkeys(FLAGS[:2], True)
        names = [name for name in FLAGS if name in forget.column_names]
        for index, text in zip(indices, texts, strict=True):
            marks = {name: bool(forget[index][name]) for name in names}
            row = {name: text[name] for name in ("input_ids", "labels")}
            rows.append({**row, WEIGHT: 1.0, **plain, "forced": False, **marks})
    return Dataset.from_list([*rows, *negative])


class WeightedBatches:
    """A collator that also collates the weights of the examples, as (examples,) float32."""

    def __init__(self, collate: Callable[[list[Row]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """One micro-batch."""
        batch = self.collate(rows)
        return batch | weights_of(rows)


def weights_of(rows: Iterable[Row]) -> dict[str, Tensor]:
    """The entry `weight` of a batch; none if no row has a weight other than 1."""
    weights = [1.0 if row.get(WEIGHT) is None else float(row[WEIGHT]) for row in rows]
    return {WEIGHT: torch.tensor(weights)} if any(weight != 1 for weight in weights) else {}


def weighted(model: nn.Module, weights: Tensor | None) -> Callable[..., Any]:
    """The model, with each example's log-probabilities times its weight: so is its loss.

    Args:
        weights: (examples,), or None if all are 1.
    """
    if weights is None:
        return model

    def call(**inputs: Any) -> Any:
        outputs = model(**inputs)
        outputs.log_probs = outputs.log_probs * weights[:, None].to(outputs.log_probs)
        return outputs

    return call


def by_weight(texts: TextBatch, weights: Tensor | None) -> list[tuple[float, TextBatch]]:
    """The texts of each weight; a loss of texts is a sum over such parts of a micro-batch.

    Args:
        weights: (texts,), or None if all are 1.
    """
    if weights is None or not len(weights):
        return [(1.0, texts)]
    return [(weight, texts.rows(weights == weight)) for weight in sorted({*weights.tolist()})]
