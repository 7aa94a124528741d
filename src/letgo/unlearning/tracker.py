"""What unlearning remembers from step to step; every checkpoint holds it."""

import math
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class RunningMean:
    """A mean in which every value before counts `decay` times as much as the next."""

    def __init__(self, total: float = 0.0, weight: float = 0.0, count: int = 0):
        self.total, self.weight, self.count = total, weight, count

    def add(self, value: float, decay: float = 1.0) -> None:
        """Take in one value; a decay of 1 gives the plain mean."""
        self.total = decay * self.total + value
        self.weight = decay * self.weight + 1
        self.count += 1

    @property
    def value(self) -> float:
        """The mean; 0 before the first value."""
        return self.total / self.weight if self.weight else 0.0


class Tracker(TrainerCallback, ExportableState):
    """Norms and losses seen so far, so that a resumed run goes on as if never interrupted.

    Attributes:
        update: norm of recent learning updates, of all trained weights together.
        learning_norm: norm of recent learning gradients, clipped.
        unlearning_norm: norm of the run's unlearning gradients, clipped.
        loss: recent learning loss, nats per token.
        lowest_loss: the lowest value that `loss` has had.
        acted: how often each guard has acted, in texts ("skipped") or steps.
        pool: the texts that re-scoring has chosen; None before it has.
    """

    def __init__(self) -> None:
        self.update, self.learning_norm = RunningMean(), RunningMean()
        self.unlearning_norm, self.loss = RunningMean(), RunningMean()
        self.lowest_loss = math.inf
        self.acted = {"skipped": 0, "clipped": 0, "paused": 0}
        self.pool: list[int] | None = None

    def state(self) -> dict[str, Any]:
        """What goes into the checkpoint's `trainer_state.json`."""
        means = {
            name: vars(mean) for name, mean in vars(self).items() if isinstance(mean, RunningMean)
        }
        # JSON has no infinity.
        lowest = self.lowest_loss if math.isfinite(self.lowest_loss) else None
        said = {"means": means, "lowest": lowest, "acted": self.acted, "pool": self.pool}
        return {"args": {}, "attributes": said}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what the checkpoint says; a fresh run's state says what there is already."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        if saved:
            said = saved["attributes"]
            for name, mean in said["means"].items():
                setattr(self, name, RunningMean(**mean))
            self.lowest_loss = math.inf if said["lowest"] is None else said["lowest"]
            self.acted = dict(said["acted"])
            self.pool = said["pool"]
