"""When to unlearn, and how strongly at each of those steps."""

import random
from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import GreedyLR

PERIODIC = ("periodic", "warmup", "decay", "adaptive")
SCHEDULES = (*PERIODIC, "early", "random")


def plan(schedule: str, learning_steps: int, interval: int, seed: int) -> list[bool]:
    """The kind of every optimizer step of a run: True for unlearning, False for learning.

    Every schedule has one unlearning step for each `interval` learning steps, and the learning
    steps in their order; only the places of the unlearning steps differ.

    Args:
        schedule: "periodic" (arXiv 2505.19715: after every `interval` learning steps), "early" (all
            of them first), "random" (in places drawn by `seed`); the others are periodic.
        learning_steps: how many.
        interval: N_u, 0 for never.
        seed: of the random places.
    """
    count = learning_steps // interval if interval else 0
    if schedule == "early":
        return [True] * count + [False] * learning_steps
    if schedule == "random":
        places = set(random.Random(seed).sample(range(learning_steps + count), count))
        return [step in places for step in range(learning_steps + count)]
    kinds: list[bool] = []
    for step in range(1, learning_steps + 1):
        kinds.append(False)
        if interval and step % interval == 0:
            kinds.append(True)
    return kinds


def factor(schedule: str, done: int, count: int) -> float:
    """What the strength of an unlearning step is multiplied by.

    Args:
        schedule: "warmup" rises linearly to 1 at the last step, "decay" falls linearly from 1 at
            the first; 1 for all others.
        done: unlearning steps before this one.
        count: unlearning steps of the whole run.
    """
    if schedule == "warmup":
        return (done + 1) / count
    return 1 - done / count if schedule == "decay" else 1.0


def of_learning_steps(scheduler: Any, unlearning_now: Callable[[], bool]) -> Any:
    """The learning-rate scheduler, to be advanced by learning steps alone.

    The trainer advances those that go by a metric after evaluations, not after steps, and knows
    them by their class.

    Args:
        scheduler, unlearning_now: as for `LearningStepsOnly`.
    """
    if isinstance(scheduler, (ReduceLROnPlateau, GreedyLR)):
        return scheduler
    return LearningStepsOnly(scheduler, unlearning_now)


class LearningStepsOnly:
    """A learning-rate scheduler that stands still during unlearning steps.

    Args:
        scheduler: the schedule of the learning steps.
        unlearning_now: whether the optimizer step under way is an unlearning step.
    """

    def __init__(self, scheduler: Any, unlearning_now: Callable[[], bool]):
        self.scheduler, self.unlearning_now = scheduler, unlearning_now

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance, unless this is an unlearning step."""
        if not self.unlearning_now():
            self.scheduler.step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)
