"""The stream of a run's batches: learning and unlearning steps in their planned order."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Sampler
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from letgo.progress import log
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.losses import LOSSES
from letgo.unlearning.schedule import Plan


class StepStream(Sampler[list[int]]):
    """Indices of every micro-batch of a whole run, one optimizer step after the other.

    A step has equally many micro-batches in every process, all for learning or all for unlearning.
    Learning micro-batches are those of fine-tuning without unlearning, in the same order. An
    unlearning step takes as many texts as a full learning step has examples, but no text twice,
    from seeded permutations of the texts; some losses mix in as many learning examples. A step with
    fewer micro-batches (the end of an epoch, a small forget set) is filled up with `[empty]`.

    Args:
        plan: which steps are unlearning steps.
        learning: batch sampler of the learning data for all processes together. It may have
            `set_epoch`, and so may its `sampler`. With `drop_last` an epoch ends as soon as not
            every process gets another batch.
        examples: number of learning examples; the texts' indices follow theirs.
        texts: number of texts; the index after theirs is that of an example without labels.
        batch_size: examples per micro-batch.
        args: the settings of the training.
    """

    def __init__(
        self, plan: Plan, learning: Any, examples: int, texts: int, batch_size: int, args: LWFConfig
    ):
        self.plan, self.learning, self.batch_size, self.seed = plan, learning, batch_size, args.seed
        self.forget, self.empty = range(examples, examples + texts), examples + texts
        self.mixed = range(examples if LOSSES[args.unlearning_loss].mixes_learning else 0)
        self.micro_batches = args.gradient_accumulation_steps
        self.world_size, self.rank = args.world_size, args.process_index

    def __len__(self) -> int:
        """Micro-batches of this process."""
        return len(self.plan) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        total = self.micro_batches * self.world_size
        learning = _learning_steps(self.learning, total, self.world_size)
        unlearning = self._unlearning_steps()
        for is_unlearning in self.plan.steps:
            step = next(unlearning if is_unlearning else learning)
            step = [*step, *[[self.empty]] * (total - len(step))]
            yield from step[self.rank :: self.world_size]

    @property
    def texts_per_step(self) -> int:
        """Texts in an unlearning step, of all processes together."""
        return min(self.micro_batches * self.world_size * self.batch_size, len(self.forget))

    def _unlearning_steps(self) -> Iterator[list[list[int]]]:
        texts = _permutations(self.forget, self.seed)
        mixed = _permutations(self.mixed, self.seed + 1)
        count, size = self.texts_per_step, self.batch_size
        postponed: list[int] = []
        while True:
            step: list[int] = []
            while len(step) < count:
                # At the border of two permutations a text may come up twice within a step; the
                # second time it is postponed to the next step.
                index = next((i for i in postponed if i not in step), None)
                if index is not None:
                    postponed.remove(index)
                else:
                    index = next(texts)
                (postponed if index in step else step).append(index)
            examples = [next(mixed) for _ in step] if self.mixed else []
            yield [step[i : i + size] + examples[i : i + size] for i in range(0, count, size)]


def _permutations(indices: Sequence[int], seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for i in torch.randperm(len(indices), generator=generator).tolist():
            yield indices[i]


def _learning_steps(batches: Any, micro_batches: int, processes: int) -> Iterator[list[list[int]]]:
    """The micro-batches of each step, epoch after epoch; an epoch's last step may have fewer."""
    epoch, dropped = 0, getattr(batches, "drop_last", False)
    count = len(batches) // processes * processes if dropped else None
    while True:
        for sampler in (batches, getattr(batches, "sampler", None)):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        step: list[list[int]] = []
        for batch in islice(batches, count):
            step.append(list(batch))
            if len(step) == micro_batches:
                yield step
                step = []
        if step:
            yield step
        epoch += 1


def empty_row(pad_token_id: int) -> dict[str, Any]:
    """An example without labels, which contributes nothing to a loss."""
    return {"input_ids": [pad_token_id], "labels": [-100], "reference": 0.0}


Collator = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


class MixedBatches:
    """Collates learning steps by the trainer's collator, which may pack, and texts by padding.

    Texts, and the example without labels, are recognized by their `reference`.
    """

    def __init__(self, learning: Collator, forget: Collator):
        self.learning, self.forget = learning, forget

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One micro-batch; with texts it also has `TextBatch`'s `reference` and `learning`."""
        if not any("reference" in row for row in rows):
            return self.learning(rows)
        batch = self.forget([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
        batch["reference"] = torch.tensor([float(row.get("reference", 0)) for row in rows])
        batch["learning"] = torch.tensor(["reference" not in row for row in rows])
        return batch


def predicted_tokens(batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Number of predicted tokens, a scalar: labels other than -100 after the first position."""
    return torch.stack([(batch["labels"][..., 1:] != -100).sum() for batch in batches]).sum()


def run_loader(
    plan: Plan,
    learning: DataLoader[Any],
    forget: Dataset,
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
    args: LWFConfig,
) -> tuple[DataLoader[Any], MixedBatches, int]:
    """The data loader of a whole run, its collator, and the texts of an unlearning step.

    Args:
        plan: which steps are unlearning steps.
        learning: the trainer's own loader of the learning data. Its data set lacks the columns that
            its collator does not take.
        forget: the texts to unlearn, with `input_ids`, `labels` and `reference`.
        pad_token_id, batch_size, device, args: of the trainer.
    """
    if not any(plan.steps):
        log.warning(
            "there will be no unlearning step: the run has %d learning steps and "
            "--unlearning_interval is %d; lower it",
            len(plan),
            args.unlearning_interval,
        )
    parts: Any = [learning.dataset, forget, [empty_row(pad_token_id)]]
    rows: ConcatDataset[dict[str, Any]] = ConcatDataset(parts)
    collate = MixedBatches(learning.collate_fn, DataCollatorForLanguageModeling(pad_token_id))
    batches: Any = learning.batch_sampler
    batches = getattr(batches, "batch_sampler", batches)  # unwrap the split over processes
    stream = StepStream(plan, batches, len(parts[0]), len(forget), batch_size, args)
    loader = DataLoader(
        rows,
        batch_sampler=stream,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
    )
    # The stream is already split over the processes, so accelerate must not split it again.
    loader = prepare_data_loader(
        loader, device, num_processes=1, process_index=0, put_on_device=True
    )
    return loader, collate, stream.texts_per_step
