"""The state that unlearning carries from step to step; every checkpoint contains it."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState


class RunningMean:
    """Exponentially weighted mean."""

    def __init__(self, total: float = 0.0, weight: float = 0.0, count: int = 0):
        self.total, self.weight, self.count = total, weight, count

    def add(self, value: float, decay: float = 1.0) -> None:
        """Add a value after multiplying the weights of all earlier ones by `decay`."""
        self.total = decay * self.total + value
        self.weight = decay * self.weight + 1
        self.count += 1

    @property
    def value(self) -> float:
        """The mean; 0 before the first value."""
        return self.total / self.weight if self.weight else 0.0


class Tracker(TrainerCallback, ExportableState):
    """Running means, guard counts and chosen texts; a resumed run continues from them.

    Attributes:
        update: norm of recent learning updates of all trained weights together.
        learning_norm: norm of recent learning gradients after clipping.
        unlearning_norm: norm of all unlearning gradients after clipping.
        loss: recent learning loss, nats per token.
        lowest_loss: the lowest value of `loss` so far.
        guard_counts: how often each guard has acted, in texts ("skipped") or steps.
        pool: the texts chosen by re-scoring; None before the first re-scoring.
        answers: the rows that `pool` counts, if they are answers of the current model.
    """

    def __init__(self) -> None:
        self.update, self.learning_norm = RunningMean(), RunningMean()
        self.unlearning_norm, self.loss = RunningMean(), RunningMean()
        self.lowest_loss = math.inf
        self.guard_counts = {"skipped": 0, "clipped": 0, "paused": 0}
        self.pool: list[int] | None = None
        self.answers: list[dict[str, Any]] = []

    def state(self) -> dict[str, Any]:
        """The entry in the checkpoint's `trainer_state.json`."""
        means = {
            name: vars(mean) for name, mean in vars(self).items() if isinstance(mean, RunningMean)
        }
        # JSON has no infinity.
        lowest = self.lowest_loss if math.isfinite(self.lowest_loss) else None
        attributes = {
            "means": means,
            "lowest": lowest,
            "guard_counts": self.guard_counts,
            "pool": self.pool,
            "answers": self.answers,
        }
        return {"args": {}, "attributes": attributes}

    def on_train_begin(self, args: object, state: TrainerState, *_: object, **__: object) -> None:
        """Load the state from the checkpoint; in a new run it is what `state()` gives now."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            attributes = saved["attributes"]
            for name, mean in attributes["means"].items():
                setattr(self, name, RunningMean(**mean))
            lowest = attributes["lowest"]
            self.lowest_loss = math.inf if lowest is None else lowest
            self.guard_counts = dict(attributes["guard_counts"])
            self.pool = attributes["pool"]
            self.answers = attributes.get("answers", [])
