"""Stage 0: the learning examples most at odds with clean ones (`letgo audit`).

The clean examples are split into two halves, and a reference model is fine-tuned on each. Both
judge every learning example; each also judges the half that it has not seen, which shows what
values right examples have.
"""

import copy
import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from letgo.data.records import Record
from letgo.data.tokens import example_ids, training_row
from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.models.inference import Row as TokenRow
from letgo.progress import log
from letgo.run.audit import audit_id
from letgo.run.base import load_base, load_trained
from letgo.run.folder import AUDIT, TRAIN_LOG, Row
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks
from letgo.scoring.gradients import finite_batch
from letgo.scoring.measure import Product, along, gradient_products, plain_norms, summed_gradient
from letgo.scoring.scores import SCORES, LearningStats, top_fraction
from letgo.scoring.weights import scored_weights
from letgo.stages.fit import fit
from letgo.stages.losses import losses_by_index

REFERENCE_EPOCHS = 3  # at least: a small clean set takes few steps
RIGHT = 0.95  # so many of the clean examples have a lower value than any suspected one
TEXTS = dict.fromkeys(("id", "prompt", "completion"), pa.string())
IDS = dict.fromkeys(("prompt_ids", "completion_ids"), pa.list_(pa.int32()))
NUMBERS = ("loss_base", "loss_ref", "interference", "gradient", "confidence")
SCHEMA = pa.schema(
    TEXTS
    | {"tokens": pa.int64()}
    | dict.fromkeys(NUMBERS, pa.float64())
    | {"score": pa.string(), "suspected": pa.bool_()}
    | IDS
)


class Examples(NamedTuple):
    """Learning examples and after them clean ones, as records and token ids.

    Attributes:
        learning: how many of them are learning examples.
        halves: indices of the clean examples on which either reference model is fine-tuned.
    """

    records: list[Record]
    ids: list[tuple[list[int], list[int]]]
    learning: int
    halves: tuple[list[int], list[int]]

    @property
    def rows(self) -> list[TokenRow]:
        """Token ids and labels."""
        return [training_row(*pair) for pair in self.ids]

    def judges(self, index: int) -> list[int]:
        """The reference models that have not seen an example."""
        return [half for half in (0, 1) if index not in self.halves[half]]


def audit(run: Run, scratch: Path) -> None:
    """Write `audit.parquet`: how far each learning example is at odds with the clean ones.

    The clean examples are `run.validation`. Numbers are means over the reference models that have
    not been fine-tuned on the example.

    Raises:
        InputError: the clean examples do not fill two batches.
    """
    base = load_base(run.config)
    examples = _examples(run, base)
    rows, score = examples.rows, run.settings.audit_score
    numbers = _at_base(run, scratch, base, examples)
    lengths = [len(row["input_ids"]) for row in rows]
    batches = scored_weights(base.model).batches(lengths, run.settings.tokens_per_batch)
    del base
    for half in (0, 1):
        lm = load_trained(run.config, _reference(run, scratch, examples, half))
        losses = losses_by_index(f"audit by reference model {half + 1}", scratch, lm, rows, batches)
        for index, loss in losses.items():
            numbers[index].setdefault("losses", {})[half] = loss
    for index, row in enumerate(numbers):
        judges = examples.judges(index)
        row["loss_ref"] = sum(row["losses"][half] for half in judges) / len(judges)
        row["gradient"] = sum(row["gradients"][half] for half in judges) / len(judges)
        row["interference"] = row["loss_ref"] - row["loss_base"]
        row["confidence"] = row[score]
    limit = _limit(run, numbers, examples.learning)
    table = [
        {
            "id": audit_id(record.id),
            "prompt": record.prompt,
            "completion": record.completion,
            "prompt_ids": ids[0],
            "completion_ids": ids[1],
            "tokens": len(ids[1]),
            **{name: row[name] for name in NUMBERS},
            "score": score,
            "suspected": row["confidence"] > limit,
        }
        for record, ids, row in zip(examples.records, examples.ids, numbers, strict=True)
    ][: examples.learning]
    table.sort(key=lambda row: (-_ranked(row["confidence"]), row["id"]))
    count = sum(row["suspected"] for row in table)
    log.info("audit: %d of %d learning examples are suspected to be wrong", count, len(table))
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), scratch / AUDIT.name)


def _ranked(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _examples(run: Run, lm: LanguageModel) -> Examples:
    """The learning and clean examples that fit into the context.

    Raises:
        InputError: too few of the clean ones do.
    """

    def fitting(records: list[Record]) -> list[tuple[Record, tuple[list[int], list[int]]]]:
        pairs = [(r, example_ids(lm.tokenizer, r.prompt, r.completion or "")) for r in records]
        return [(r, ids) for r, ids in pairs if len(ids[0]) + len(ids[1]) <= lm.limit]

    learning, clean = fitting(run.learn), fitting(run.validation)
    batch = run.training.per_device_train_batch_size
    if len(clean) < 2 * batch:
        raise InputError(
            f"--learn_validation (--clean): {len(clean)} clean examples are too few to fit two "
            f"reference models on, each on half of them; give {2 * batch} or more, or lower "
            f"--per_device_train_batch_size (now {batch})"
        )
    records, ids = zip(*learning, *clean, strict=True)
    # Shuffled: a file may have its right answers in a regular order.
    order = list(range(len(learning), len(records)))
    random.Random(run.training.seed).shuffle(order)
    halves = sorted(order[0::2]), sorted(order[1::2])
    return Examples(list(records), list(ids), len(learning), halves)


def _reference(run: Run, scratch: Path, examples: Examples, half: int) -> Path:
    """The folder of a model fine-tuned on half of the clean examples."""
    folder = scratch / f"reference-{half + 1}"
    if not (folder / TRAIN_LOG.name).exists():  # it is written last
        folder.mkdir(exist_ok=True)
        training = copy.deepcopy(run.training)
        training.max_steps, training.regularizer = -1, "none"
        # The clean examples are the validation set: it cannot choose a model that learns them.
        training.eval_strategy, training.load_best_model_at_end = "no", False
        training.num_train_epochs = max(training.num_train_epochs, REFERENCE_EPOCHS)
        learn = [examples.records[index] for index in examples.halves[half]]
        changed = replace(run, learn=learn, config=run.config._replace(training=training))
        fit(changed, folder, folder / "model", f"reference model {half + 1} of 2")
    return folder / "model"


def _at_base(run: Run, scratch: Path, base: LanguageModel, examples: Examples) -> list[Row]:
    """`loss_base`, and by half of the clean examples the gradient score, of every example."""
    rows, weights = examples.rows, scored_weights(base.model)
    size = run.settings.tokens_per_batch

    def batches(some: list[TokenRow]) -> list[list[int]]:
        return weights.batches([len(row["input_ids"]) for row in some], size)

    @cache  # a resumed audit may need none
    def directions() -> tuple[dict[str, Product], list[LearningStats]]:
        wanted: dict[str, Product] = {"norm": plain_norms}
        stats = []
        for number, indices in enumerate(examples.halves):
            half = [rows[index] for index in indices]
            total, _ = summed_gradient(base, weights, half, batches(half))
            square = sum(float((g**2).sum()) for g in total.values())
            stats.append(LearningStats(math.nan, math.nan, square, None))
            # In the dtype of the backward pass, where it is multiplied.
            dtype = torch.bfloat16 if base.bf16 else torch.float32
            wanted[f"half {number}"] = along({n: g.to(dtype) for n, g in total.items()})
        return wanted, stats

    def measure(batch: list[int]) -> list[Row]:
        wanted, stats = directions()
        indices, found, left_out = finite_batch(
            base,
            rows,
            batch,
            lambda padded: gradient_products(base.model, weights, padded, wanted, base.bf16),
        )
        table: list[Row] = [{"index": i} for i in left_out]
        for position, index in enumerate(indices):
            text = {name: float(column[position]) for name, column in found.items()}
            scores = [
                SCORES["gradient"]({**text, "learning": text[f"half {i}"]}, stats[i])
                for i in (0, 1)
            ]
            table.append({"index": index, "loss_base": text["loss"], "gradients": scores})
        return table

    numbers: list[Row] = [{"loss_base": math.nan, "gradients": [math.nan] * 2} for _ in rows]
    for row in in_chunks("audit at the base model", scratch, batches(rows), measure):
        numbers[row.pop("index")] |= row
    return numbers


def _limit(run: Run, numbers: list[Row], learning: int) -> float:
    """The value above which a learning example is suspected; no value that is not finite counts."""
    values = [row["confidence"] for row in numbers]
    if run.settings.wrong_fraction is not None:
        finite = [value for value in values[:learning] if math.isfinite(value)]
        top = top_fraction(range(len(finite)), finite, run.settings.wrong_fraction)
        return float(np.nextafter(min(finite[index] for index in top), -np.inf))
    clean = [value for value in values[learning:] if math.isfinite(value)]
    return float(np.quantile(clean, RIGHT)) if clean else math.inf
