"""When to unlearn, and the stream of batches that says so before a step starts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler


def periodic(learning_steps: int, interval: int) -> list[bool]:
    """The kind of every optimizer step of a run: True for unlearning, False for learning.

    One unlearning step follows every `interval` learning steps (arXiv 2505.19715); 0 means never.
    """
    kinds: list[bool] = []
    for step in range(1, learning_steps + 1):
        kinds.append(False)
        if interval and step % interval == 0:
            kinds.append(True)
    return kinds


class StepStream(Sampler[list[int]]):
    """Indices of every micro-batch of a whole run, one optimizer step after the other.

    A step is `micro_batches` on each of `world_size` processes and all of one kind. Learning
    micro-batches are those that fine-tuning without unlearning would see, in the same order.
    Unlearning steps draw from seeded permutations of the forget set, as many examples as a full
    learning step has, but none twice in a step. Where a step has fewer micro-batches than there
    are places (the end of an epoch, a small forget set), the rest are `[nothing]`.

    Args:
        kinds: of every optimizer step.
        learning: batch sampler of the learning data for all processes together; may have
            `set_epoch`, and so may its `sampler`.
        forget: indices of the forget set.
        nothing: index of an example without labels.
        batch_size: examples per micro-batch.
        micro_batches: per step and process (gradient accumulation).
        world_size, rank: the processes, and which this is.
        seed: of the forget stream.
    """

    def __init__(
        self,
        kinds: Sequence[bool],
        learning: Any,
        forget: Sequence[int],
        nothing: int,
        batch_size: int,
        micro_batches: int,
        world_size: int,
        rank: int,
        seed: int,
    ):
        self.kinds, self.learning, self.forget, self.nothing = kinds, learning, forget, nothing
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.world_size, self.rank, self.seed = world_size, rank, seed

    def __len__(self) -> int:
        """Micro-batches that this process will see."""
        return len(self.kinds) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        places = self.micro_batches * self.world_size
        learning = _steps_of_epochs(self.learning, places)
        forget = self._forget_steps(places)
        for unlearning in self.kinds:
            step = next(forget if unlearning else learning)
            step = [*step, *[[self.nothing]] * (places - len(step))]
            yield from step[self.rank :: self.world_size]

    def _forget_steps(self, places: int) -> Iterator[list[list[int]]]:
        generator = torch.Generator().manual_seed(self.seed)
        order = _permutations(self.forget, generator)
        size = min(places * self.batch_size, len(self.forget))
        waiting: list[int] = []
        while True:
            step: list[int] = []
            while len(step) < size:
                # Where one permutation ends and the next begins, an example may come a second time
                # within a step; it waits for the next step.
                index = next((i for i in waiting if i not in step), None)
                if index is not None:
                    waiting.remove(index)
                else:
                    index = next(order)
                (waiting if index in step else step).append(index)
            yield [step[i : i + self.batch_size] for i in range(0, size, self.batch_size)]


def _permutations(indices: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while True:
        for place in torch.randperm(len(indices), generator=generator).tolist():
            yield indices[place]


def _steps_of_epochs(batches: Any, places: int) -> Iterator[list[list[int]]]:
    """The micro-batches of one step after the other; an epoch's last step may have fewer."""
    epoch = 0
    while True:
        for sampler in (batches, getattr(batches, "sampler", None)):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        step: list[list[int]] = []
        for batch in batches:
            step.append(list(batch))
            if len(step) == places:
                yield step
                step = []
        if step:
            yield step
        epoch += 1


class MixedRows(Dataset[dict[str, Any]]):
    """Learning examples, then forget examples, then one example without labels.

    Args:
        learning, forget: datasets of rows with `input_ids` and `labels`.
        pad_token_id: fills the last one.
    """

    def __init__(self, learning: Any, forget: Any, pad_token_id: int):
        self.learning, self.forget = learning, forget
        self.nothing = {"input_ids": [pad_token_id], "labels": [-100]}

    def __len__(self) -> int:
        return len(self.learning) + len(self.forget) + 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.learning):
            return dict(self.learning[index])
        index -= len(self.learning)
        return dict(self.forget[index]) if index < len(self.forget) else self.nothing


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
