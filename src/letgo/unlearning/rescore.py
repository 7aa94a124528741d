"""Which texts still stand in the way, asked again while the model learns.

A score taken at the base model is stale after a few learning steps, and so is AdamW's first moment:
early in training the learning gradient turns faster than its running mean follows (measured by
benchmarks/benefit.py). So the learning gradient is taken anew, of a few dozen examples, and each
text's gradient is compared with it.
"""

import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from letgo.errors import InputError
from letgo.progress import log
from letgo.scoring.gradients import finite_batch
from letgo.scoring.measure import along, gradient_products, plain_norms, summed_gradient
from letgo.scoring.scores import top_fraction
from letgo.scoring.weights import trained_weights
from letgo.unlearning.checks import examples

COST = 0.1  # of the learning steps' examples, where nobody says how often


class Rescore(TrainerCallback):
    """Chooses the texts to unlearn anew, before they are unlearned first and every so often.

    Sooner where it found none that helps.

    Attributes:
        learning_norm: of the mean learning gradient that the last scores were taken against.

    Args:
        trainer: an `LWFTrainer`.
        rows: all texts, as rows with `input_ids` and `labels`.

    Raises:
        InputError: no linear layer is trained.
    """

    def __init__(self, trainer: Any, rows: Sequence[dict[str, Any]]):
        self.trainer, self.rows, self.learning_norm = trainer, rows, 0.0
        self.weights = trained_weights(trainer.model)
        forced = {*trainer.chosen.forced}
        self.forced = [i for i, place in enumerate(trainer.chosen.allowed) if place in forced]
        args = trainer.args
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        # Texts, and as many learning examples, each about as dear as an example of a learning step.
        automatic = math.ceil(2 * args.rescore_texts / COST / step)
        self.interval = args.rescore_interval or automatic

    def _due(self, at: int) -> bool:
        """Whether the texts are scored after this many steps of both kinds."""
        done, coming = self.trainer.kinds[:at], self.trainer.kinds[at:]
        if done[-1] or not any(coming):
            return False
        if done.count(False) % self.interval == 0:
            return True
        # Where nothing helped: what helps changes from step to step, so ask again, at unlearning
        # steps 1, 2, 4, 8, ..., which costs little in a long run and is often in a short one.
        count = done.count(True) + 1
        power_of_2 = count & (count - 1) == 0
        return coming[0] and power_of_2 and (count == 1 or not self.trainer.tracker.pool)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score a sample; those of its top fraction that help are unlearned from now on.

        So are texts that were forced, whatever their score.
        """
        trainer = self.trainer
        if not self._due(state.global_step):
            return
        # A seed of the step's own, so that a resumed run draws the same samples.
        draw = random.Random(f"{args.seed} {state.global_step}")
        enough = math.ceil(trainer.forgotten_per_step / args.forget_fraction)
        count = min(max(args.rescore_texts, enough), len(self.rows))
        places = sorted(draw.sample(range(len(self.rows)), count))
        learning = trainer.train_dataset
        drawn = draw.sample(range(len(learning)), min(args.rescore_texts, len(learning)))
        shown = list(islice(examples(learning[i] for i in drawn), args.rescore_texts))
        scores = self._scores(places, shown)
        chosen = top_fraction(places, scores, args.forget_fraction)
        # Ascent on a text with a score below 0 would raise the learning loss.
        scored = dict(zip(places, scores, strict=True))
        helpful = sorted(place for place in chosen if scored[place] > 0)
        trainer.tracker.pool = sorted({*helpful, *self.forced})
        trainer.metrics.rescored(scores, [scored[place] for place in helpful], self.learning_norm)

    def batches(self, count: int) -> list[list[dict[str, Any]]]:
        """Rows of this process's micro-batches of the unlearning step under way.

        Args:
            count: how many micro-batches; one without texts is empty.
        """
        trainer, args = self.trainer, self.trainer.args
        pool = trainer.tracker.pool
        draw = random.Random(f"{args.seed} unlearn {trainer.state.global_step}")
        order = draw.sample(pool, min(trainer.forgotten_per_step, len(pool)))
        size = args.per_device_train_batch_size
        starts = [(i * args.world_size + args.process_index) * size for i in range(count)]
        return [[self.rows[place] for place in order[start : start + size]] for start in starts]

    def _scores(self, places: list[int], learning: Sequence[dict[str, list[int]]]) -> list[float]:
        """`-cos(g_L, g_x)` of every text; the same in every process.

        Args:
            places: the texts, as indices into `rows`.
            learning: examples whose mean gradient is `g_L`.
        """
        trainer, args = self.trainer, self.trainer.args
        model, pad = trainer.model, trainer._tokenizer.pad_token_id
        weights = self.weights
        training = model.training
        model.eval()

        def own(rows: Sequence[dict[str, list[int]]]) -> list[list[int]]:
            batches = weights.batches([len(row["input_ids"]) for row in rows], 1024)
            return batches[args.process_index :: args.world_size]

        bf16, reduce = bool(args.bf16), trainer.accelerator.reduce
        direction, _ = summed_gradient(model, weights, learning, own(learning), pad, bf16)
        direction = {name: reduce(gradient) for name, gradient in direction.items()}
        length = sum(float((g**2).sum()) for g in direction.values()) ** 0.5
        self.learning_norm = length / len(learning)
        wanted = {"inner": along(direction), "norm": plain_norms}
        rows = [self.rows[place] for place in places]
        found = torch.zeros(len(rows), dtype=torch.float64)
        for batch in own(rows):
            kept, numbers, _ = finite_batch(
                rows,
                batch,
                pad,
                lambda padded: gradient_products(model, weights, padded, wanted, bf16),
            )
            for i, place in enumerate(kept):
                norm = float(numbers["norm"][i])
                if norm > 0 and length > 0:
                    found[place] = -float(numbers["inner"][i]) / (length * norm**0.5)
        model.train(training)
        shared: Tensor = reduce(found.float().to(trainer.accelerator.device))
        return [float(value) for value in shared]


def rescoring(trainer: Any, rows: Sequence[dict[str, Any]], sharded: bool) -> Rescore | None:
    """What scores the texts of this run again, if anything.

    Args:
        trainer: an `LWFTrainer`.
        rows: all texts, as rows with `input_ids` and `labels`.
        sharded: whether the weights are split over processes.

    Raises:
        InputError: it was asked for by name, and cannot be had with this model or these processes.
    """
    asked = trainer.args.rescore_interval
    if asked == 0:
        return None
    try:
        if sharded:
            raise InputError(
                "--rescore_interval needs whole weights in every process; it does not work with "
                "FSDP or DeepSpeed"
            )
        return Rescore(trainer, rows)
    except InputError as error:
        if asked:
            raise
        log.warning("the texts are not scored again while the model learns: %s", error)
        return None
