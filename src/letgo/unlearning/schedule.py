"""When to unlearn, and how strongly in each unlearning step."""

import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import GreedyLR

SCHEDULES = ("periodic", "warmup", "decay", "adaptive", "early", "random")


def unlearning_steps(schedule: str, learning_steps: int, interval: int, seed: int) -> list[bool]:
    """For every optimizer step of a run, whether it is an unlearning step.

    All schedules have one unlearning step for each `interval` learning steps; they differ in where
    these are.

    Args:
        schedule: "early": before the first learning step; "random": at positions drawn with `seed`;
            all others: after every `interval` learning steps (arXiv 2505.19715).
        learning_steps, interval, seed: number of learning steps, N_u (0: no unlearning), and seed.
    """
    count = learning_steps // interval if interval else 0
    total = learning_steps + count
    positions: Sequence[int] = range(interval, total, interval + 1) if count else ()
    if schedule == "early":
        positions = range(count)
    elif schedule == "random":
        positions = random.Random(seed).sample(range(total), count)
    chosen = set(positions)
    return [step in chosen for step in range(total)]


class Plan:
    """Which optimizer steps of a run are unlearning steps; fixed before training starts.

    Steps are numbered from 0, as `TrainerState.global_step` is while the step runs.

    Args:
        steps: for every optimizer step, whether it is an unlearning step.
        schedule: one of `SCHEDULES`, for the strength.
        steps_per_epoch: learning steps in an epoch.
    """

    def __init__(self, steps: Sequence[bool], schedule: str = "periodic", steps_per_epoch: int = 1):
        self.steps, self.schedule, self.steps_per_epoch = list(steps), schedule, steps_per_epoch
        self._unlearned = [0, *accumulate(map(int, self.steps))]

    def __len__(self) -> int:
        return len(self.steps)

    def is_unlearning(self, step: int) -> bool:
        """Whether this step is an unlearning step; False after the last step."""
        return step < len(self.steps) and self.steps[step]

    def unlearned(self, step: int) -> int:
        """Number of unlearning steps before this step."""
        return self._unlearned[min(step, len(self.steps))]

    def learned(self, step: int) -> int:
        """Number of learning steps before this step."""
        return min(step, len(self.steps)) - self.unlearned(step)

    def epoch_ends(self, step: int) -> bool:
        """Whether an epoch ends before this step.

        An epoch ends after its last learning step and the unlearning steps that follow it.
        """
        learned = self.learned(step)
        whole = learned > 0 and learned % self.steps_per_epoch == 0
        return whole and not self.is_unlearning(step)

    def strength(self, step: int) -> float:
        """Fraction of the full strength with which this step unlearns; 0 for a learning step.

        "warmup" rises linearly to 1 at the last unlearning step, "decay" falls linearly from 1 at
        the first.
        """
        if not self.is_unlearning(step):
            return 0.0
        done, count = self.unlearned(step), self._unlearned[-1]
        if self.schedule == "warmup":
            return (done + 1) / count
        return 1 - done / count if self.schedule == "decay" else 1.0


class LearningStepsOnly:
    """A learning-rate scheduler that does not advance while `unlearning_now()`."""

    def __init__(self, scheduler: LRScheduler, unlearning_now: Callable[[], bool]):
        self.scheduler, self.unlearning_now = scheduler, unlearning_now

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance, unless the current optimizer step is an unlearning step."""
        if not self.unlearning_now():
            self.scheduler.step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)


def for_learning_steps(scheduler: LRScheduler, unlearning_now: Callable[[], bool]) -> Any:
    """The scheduler, advanced by learning steps only.

    Schedulers that follow an evaluation metric are returned unchanged: the trainer recognizes them
    by their class and advances them after evaluations, not after steps.
    """
    if isinstance(scheduler, (ReduceLROnPlateau, GreedyLR)):
        return scheduler
    return LearningStepsOnly(scheduler, unlearning_now)
