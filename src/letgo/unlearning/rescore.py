"""Which texts still stand in the way, asked again while the model learns.

A score taken at the base model is stale after a few learning steps. AdamW's first moment is a
running mean of the learning gradient that is there for nothing: one backward pass over the texts
gives the cosine of each of their gradients with it.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D

from letgo.confidence.gradients import Weights, trained_weights
from letgo.confidence.measure import along, finite_batch, gradient_products, plain_norms
from letgo.data import top_fraction
from letgo.errors import InputError


class Rescore(TrainerCallback):
    """Chooses the texts to unlearn anew after every so many learning steps.

    Args:
        trainer: an `LWFTrainer`.
        rows: all texts, as rows with `input_ids` and `labels`.
    """

    def __init__(self, trainer: Any, rows: Sequence[dict[str, Any]]):
        self.trainer, self.rows = trainer, rows
        self.weights: Weights | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score a sample and let its top fraction be what is unlearned from now on."""
        trainer = self.trainer
        done = trainer.kinds[: state.global_step]
        if done[-1] or done.count(False) % args.rescore_interval:
            return
        if not any(trainer.kinds[state.global_step :]):
            return  # nobody would ask for it
        # A seed of the step's own, so that a resumed run draws the same sample.
        draw = random.Random(f"{args.seed} {state.global_step}")
        enough = math.ceil(trainer.forgotten_per_step / args.forget_fraction)
        count = min(max(args.rescore_texts, enough), len(self.rows))
        places = sorted(draw.sample(range(len(self.rows)), count))
        scores = self._scores(places)
        chosen = top_fraction(places, scores, args.forget_fraction)
        trainer.memory.pool = sorted(chosen)
        kept = [score for place, score in zip(places, scores, strict=True) if place in chosen]
        trainer.figures.rescored(kept)

    def batches(self, count: int) -> list[list[dict[str, Any]]]:
        """Rows of this process's micro-batches of the unlearning step under way.

        Args:
            count: how many micro-batches; one without texts is empty.
        """
        trainer, args = self.trainer, self.trainer.args
        pool = trainer.memory.pool
        draw = random.Random(f"{args.seed} unlearn {trainer.state.global_step}")
        order = draw.sample(pool, min(trainer.forgotten_per_step, len(pool)))
        size = args.per_device_train_batch_size
        starts = [(i * args.world_size + args.process_index) * size for i in range(count)]
        return [[self.rows[place] for place in order[start : start + size]] for start in starts]

    def _scores(self, places: list[int]) -> list[float]:
        """`-cos(m, g_x)` of every text, `m` AdamW's first moment; the same in every process."""
        trainer, args = self.trainer, self.trainer.args
        model = trainer.model
        weights = self.weights = self.weights or trained_weights(model)
        direction = _moments(weights, trainer.optimizer)
        length = sum(float((m.float() ** 2).sum()) for m in direction.values()) ** 0.5
        wanted = {"inner": along(direction), "norm": plain_norms}
        rows = [self.rows[place] for place in places]
        batches = weights.batches([len(row["input_ids"]) for row in rows], 1024)
        found = torch.zeros(len(rows), dtype=torch.float64)
        training = model.training
        model.eval()
        for batch in batches[args.process_index :: args.world_size]:
            kept, numbers, _ = finite_batch(
                rows, batch, trainer._tokenizer.pad_token_id,
                lambda padded: gradient_products(
                    model, weights, padded, wanted, bool(args.bf16)
                ),
            )  # fmt: skip
            for i, place in enumerate(kept):
                norm = float(numbers["norm"][i])
                if norm > 0 and length > 0:
                    found[place] = -float(numbers["inner"][i]) / (length * norm**0.5)
        model.train(training)
        shared: Tensor = trainer.accelerator.reduce(found.float().to(trainer.accelerator.device))
        return [float(value) for value in shared]


def _moments(weights: Weights, optimizer: Any) -> dict[str, Tensor]:
    """AdamW's first moment of every matrix, (out, in).

    Raises:
        InputError: the optimizer has none.
    """
    states = getattr(optimizer, "optimizer", optimizer).state
    found = {}
    layer: Any
    for name, layer in weights.layers.items():
        state = states.get(layer.weight, {})
        if "exp_avg" not in state:
            raise InputError(
                "--rescore_interval needs an optimizer with a running mean of the gradient: give "
                "--optim adamw_torch"
            )
        found[name] = state["exp_avg"].T if isinstance(layer, Conv1D) else state["exp_avg"]
    return found


def check_rescoring(sharded: bool) -> None:
    """Refuse what cannot be scored while it is trained.

    Raises:
        InputError: the weights are split over processes.
    """
    if sharded:
        raise InputError(
            "--rescore_interval needs whole weights in every process; it does not work with FSDP "
            "or DeepSpeed"
        )
