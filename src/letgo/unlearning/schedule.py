"""When to unlearn and to keep, and how strongly in each unlearning step."""

import random
from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import GreedyLR

SCHEDULES = ("periodic", "warmup", "decay", "adaptive", "early", "random")


class Step(IntEnum):
    """What an optimizer step does; all its micro-batches are of one kind."""

    LEARN = 0
    UNLEARN = 1
    KEEP = 2

    @property
    def batch(self) -> str:
        """What its micro-batches are called in messages."""
        return ("learning", "the forget batch", "the keep batch")[self]


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


def planned_steps(unlearning: Sequence[bool], keep_share: float) -> list[Step]:
    """What every optimizer step does, with keep steps between those of `unlearning_steps`.

    Args:
        unlearning: for every step, whether it is an unlearning step.
        keep_share: keep steps for each learning step. They are spread evenly over the run; each
            comes after the unlearning steps that follow its learning step.
    """
    steps: list[Step] = []
    learned = kept = 0
    for index, is_unlearning in enumerate(unlearning):
        steps.append(Step(is_unlearning))
        learned += not is_unlearning
        if index + 1 < len(unlearning) and unlearning[index + 1]:
            continue
        # Without the small term 10 steps at a share of 0.7 would lose their last keep step.
        due = int(learned * keep_share + 1e-9)
        steps += [Step.KEEP] * (due - kept)
        kept = due
    return steps


class Plan:
    """What each optimizer step of a run does; fixed before training starts.

    Steps are numbered from 0, as `TrainerState.global_step` is while the step runs.

    Args:
        steps: a `Step` for every optimizer step.
        schedule: one of `SCHEDULES`, for the strength of unlearning steps.
        steps_per_epoch: learning steps in an epoch.
    """

    def __init__(self, steps: Sequence[int], schedule: str = "periodic", steps_per_epoch: int = 1):
        self.steps, self.schedule = [Step(step) for step in steps], schedule
        self.steps_per_epoch = steps_per_epoch
        self._learned = [0, *accumulate(step == Step.LEARN for step in self.steps)]
        self._unlearned = [0, *accumulate(step == Step.UNLEARN for step in self.steps)]

    def __len__(self) -> int:
        return len(self.steps)

    def step(self, number: int) -> Step:
        """What this step does; a step outside the run counts as a learning step."""
        return self.steps[number] if 0 <= number < len(self.steps) else Step.LEARN

    def is_unlearning(self, step: int) -> bool:
        """Whether this step is an unlearning step; False outside the run."""
        return self.step(step) == Step.UNLEARN

    def unlearned(self, step: int) -> int:
        """Number of unlearning steps before this step."""
        return self._unlearned[min(step, len(self.steps))]

    def learned(self, step: int) -> int:
        """Number of learning steps before this step."""
        return self._learned[min(step, len(self.steps))]

    def kept(self, step: int) -> int:
        """Number of keep steps before this step."""
        return min(step, len(self.steps)) - self.learned(step) - self.unlearned(step)

    def others(self, step: int) -> dict[str, int]:
        """Unlearning and keep steps before this step, by the names that log lines have."""
        return {"unlearn/steps": self.unlearned(step), "keep/steps": self.kept(step)}

    def epoch_ends(self, step: int) -> bool:
        """Whether an epoch ends before this step.

        An epoch ends after its last learning step and the other steps that follow it.
        """
        learned = self.learned(step)
        whole = learned > 0 and learned % self.steps_per_epoch == 0
        return whole and self.step(step) == Step.LEARN

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


def run_plan(
    schedule: str,
    learning_steps: int,
    steps_per_epoch: int,
    interval: int,
    keep_share: float,
    seed: int,
) -> Plan:
    """The plan of a run; the arguments are those of the functions above."""
    unlearning = unlearning_steps(schedule, learning_steps, interval, seed)
    return Plan(planned_steps(unlearning, keep_share), schedule, steps_per_epoch)


class LearningStepsOnly:
    """A learning-rate scheduler that advances only while `learning_now()`."""

    def __init__(self, scheduler: LRScheduler, learning_now: Callable[[], bool]):
        self.scheduler, self.learning_now = scheduler, learning_now

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance if the current optimizer step is a learning step."""
        if self.learning_now():
            self.scheduler.step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)


def for_learning_steps(scheduler: LRScheduler, learning_now: Callable[[], bool]) -> Any:
    """The scheduler, advanced by learning steps only.

    Schedulers that follow an evaluation metric are returned unchanged: the trainer recognizes them
    by their class and advances them after evaluations, not after steps.
    """
    if isinstance(scheduler, (ReduceLROnPlateau, GreedyLR)):
        return scheduler
    return LearningStepsOnly(scheduler, learning_now)
