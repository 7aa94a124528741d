"""The stream of batches that fixes the kind of every optimizer step before it starts."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, Sampler

from letgo.progress import log


class StepStream(Sampler[list[int]]):
    """Indices of every micro-batch of a whole run, one optimizer step after the other.

    A step is `micro_batches` on each of `world_size` processes and all of one kind. Learning
    micro-batches are those that fine-tuning without unlearning would see, in the same order.
    Unlearning steps draw from seeded permutations of the forget set, as many examples as a full
    learning step has, but none twice in a step, and with `retain` as many learning examples beside
    them. Where a step has fewer micro-batches than there are places (the end of an epoch, a small
    forget set), the rest are `[nothing]`.

    Args:
        kinds: of every optimizer step.
        learning: batch sampler of the learning data for all processes together; may have
            `set_epoch`, and so may its `sampler`. With `drop_last` an epoch ends where not every
            process gets another batch.
        forget: indices of the forget set.
        nothing: index of an example without labels.
        batch_size: examples per micro-batch.
        micro_batches: per step and process (gradient accumulation).
        world_size, rank: the processes, and which this is.
        seed: of the forget stream.
        retain: indices of learning examples to mix into unlearning steps, if any.
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
        retain: Sequence[int] = (),
    ):
        self.kinds, self.learning, self.forget, self.nothing = kinds, learning, forget, nothing
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.world_size, self.rank, self.seed, self.retain = world_size, rank, seed, retain

    def __len__(self) -> int:
        """Micro-batches that this process will see."""
        return len(self.kinds) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        places = self.micro_batches * self.world_size
        learning = _steps_of_epochs(self.learning, places, self.world_size)
        forget = self._forget_steps()
        for unlearning in self.kinds:
            step = next(forget if unlearning else learning)
            step = [*step, *[[self.nothing]] * (places - len(step))]
            yield from step[self.rank :: self.world_size]

    @property
    def forgotten_per_step(self) -> int:
        """Texts in an unlearning step, of all processes together."""
        return min(self.micro_batches * self.world_size * self.batch_size, len(self.forget))

    def _forget_steps(self) -> Iterator[list[list[int]]]:
        order = _permutations(self.forget, self.seed)
        retain = _permutations(self.retain, self.seed + 1)
        size = self.forgotten_per_step
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
            if self.retain:
                beside = [next(retain) for _ in step]
            batches = range(0, size, self.batch_size)
            yield [
                step[i : i + self.batch_size]
                + (beside[i : i + self.batch_size] if self.retain else [])
                for i in batches
            ]


def _permutations(indices: Sequence[int], seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for place in torch.randperm(len(indices), generator=generator).tolist():
            yield indices[place]


def _steps_of_epochs(batches: Any, places: int, processes: int) -> Iterator[list[list[int]]]:
    """The micro-batches of one step after the other; an epoch's last step may have fewer."""
    epoch, dropped = 0, getattr(batches, "drop_last", False)
    count = len(batches) // processes * processes if dropped else None
    while True:
        for sampler in (batches, getattr(batches, "sampler", None)):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        step: list[list[int]] = []
        for batch in islice(batches, count):
            step.append(list(batch))
            if len(step) == places:
                yield step
                step = []
        if step:
            yield step
        epoch += 1


class MixedRows(Dataset[dict[str, Any]]):
    """Learning examples, then texts to forget, then one example without labels.

    The latter two carry `reference`, by which `MixedBatches` knows them.

    Args:
        learning: dataset of rows that the trainer's collator takes.
        forget: dataset of rows with `input_ids`, `labels` and `reference`.
        pad_token_id: fills the last one.
    """

    def __init__(self, learning: Any, forget: Any, pad_token_id: int):
        self.learning, self.forget = learning, forget
        self.nothing = {"input_ids": [pad_token_id], "labels": [-100], "reference": 0.0}

    def __len__(self) -> int:
        return len(self.learning) + len(self.forget) + 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.learning):
            return dict(self.learning[index])
        index -= len(self.learning)
        return dict(self.forget[index]) if index < len(self.forget) else self.nothing


class MixedBatches:
    """Collates learning examples by the trainer's own collator, texts to forget by a padding one.

    Args:
        learning: the trainer's collator; may pack a batch into one row.
        forget: a collator that pads.
    """

    def __init__(self, learning: Any, forget: Any):
        self.learning, self.forget = learning, forget

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One micro-batch; of an unlearning step also `reference` and `learning`, (batch,)."""
        if not any("reference" in row for row in rows):
            return self.learning(rows)
        batch = self.forget([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
        batch["reference"] = torch.tensor([float(row.get("reference", 0)) for row in rows])
        batch["learning"] = torch.tensor(["reference" not in row for row in rows])
        return batch


def labels_in(batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    """How many tokens micro-batches predict: labels that count, but at a text's first place."""
    return torch.stack([(batch["labels"][..., 1:] != -100).sum() for batch in batches]).sum()


def step_stream(
    kinds: Sequence[bool], learning: Any, rows: MixedRows, batch_size: int, args: Any
) -> StepStream:
    """The micro-batches that this process will see.

    Args:
        kinds: of every optimizer step.
        learning: the trainer's own loader of the learning data.
        rows: learning examples and texts, which the stream gives by their places.
        batch_size: examples per micro-batch.
        args: the `LWFConfig`.
    """
    if not any(kinds):
        log.warning(
            "no unlearning step will happen: the run has %d learning steps and "
            "--unlearning_interval is %d",
            len(kinds),
            args.unlearning_interval,
        )
    batches = learning.batch_sampler
    batches = getattr(batches, "batch_sampler", batches)  # unwrap the split over processes
    first = len(rows.learning)
    forget = range(first, first + len(rows.forget))
    retain = range(first) if args.unlearning_loss == "graddiff" else ()
    return StepStream(
        kinds,
        batches,
        forget,
        forget.stop,
        batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        args.process_index,
        args.seed,
        retain,
    )


def mixed_loader(
    rows: MixedRows, stream: StepStream, collate: MixedBatches, device: Any, args: Any
) -> DataLoader[Any]:
    """The loader of the whole run; the stream is split over the processes already."""
    loader = DataLoader(
        rows,
        batch_sampler=stream,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
    )
    prepared: DataLoader[Any] = prepare_data_loader(
        loader, device, num_processes=1, process_index=0, put_on_device=True
    )
    return prepared
