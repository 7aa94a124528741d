"""The stream of a run's batches: learning, unlearning and keep steps in their planned order."""

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
from letgo.unlearning.schedule import Plan, Step
from letgo.unlearning.weights import weights_of


class StepStream(Sampler[list[int]]):
    """Indices of every micro-batch of a whole run, one optimizer step after the other.

    A step has equally many micro-batches in every process, all of one kind. Learning micro-batches
    are those of plain fine-tuning, in the same order. An unlearning or keep step takes as many
    texts as a full learning step has examples, but no text twice, from seeded permutations of the
    texts; some unlearning losses mix in as many learning examples. A step with fewer micro-batches
    (the end of an epoch, a small set of texts) is filled up with `[empty]`.

    Args:
        plan: what each step does.
        learning: batch sampler of the learning data for all processes together. It may have
            `set_epoch`, and so may its `sampler`. With `drop_last` an epoch ends as soon as not
            every process gets another batch.
        examples: number of learning examples; the texts' indices follow theirs.
        texts: number of texts to unlearn.
        batch_size: examples per micro-batch.
        args: the settings of the training.
        kept: number of texts to keep; their indices follow those of the texts to unlearn. The index
            after theirs is that of an example without labels.
    """

    def __init__(
        self,
        plan: Plan,
        learning: Any,
        examples: int,
        texts: int,
        batch_size: int,
        args: LWFConfig,
        kept: int = 0,
    ):
        self.plan, self.learning, self.batch_size, self.seed = plan, learning, batch_size, args.seed
        self.forget = range(examples, examples + texts)
        self.keep = range(examples + texts, examples + texts + kept)
        self.empty = examples + texts + kept
        self.mixed = range(examples if LOSSES[args.unlearning_loss].mixes_learning else 0)
        self.micro_batches = args.gradient_accumulation_steps
        self.world_size, self.rank = args.world_size, args.process_index

    def __len__(self) -> int:
        """Micro-batches of this process."""
        return len(self.plan) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        total = self.micro_batches * self.world_size
        learning = _learning_steps(self.learning, total, self.world_size)
        steps = {
            Step.LEARN: learning,
            Step.UNLEARN: self._text_steps(self.forget, self.seed, self.mixed),
            Step.KEEP: self._text_steps(self.keep, self.seed + 2),
        }
        for kind in self.plan.steps:
            step = next(steps[kind])
            step = [*step, *[[self.empty]] * (total - len(step))]
            yield from step[self.rank :: self.world_size]

    @property
    def texts_per_step(self) -> int:
        """Texts in an unlearning step, of all processes together."""
        return self._count(self.forget)

    def _count(self, texts: Sequence[int]) -> int:
        return min(self.micro_batches * self.world_size * self.batch_size, len(texts))

    def _text_steps(
        self, indices: Sequence[int], seed: int, mixed: Sequence[int] = ()
    ) -> Iterator[list[list[int]]]:
        """The micro-batches of each step on these texts; `mixed` are examples to mix in."""
        texts, others = _permutations(indices, seed), _permutations(mixed, seed + 1)
        count, size = self._count(indices), self.batch_size
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
            examples = [next(others) for _ in step] if mixed else []
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

    Texts to unlearn, and the example without labels, are recognized by their `reference`; texts to
    keep by their `top_ids`.
    """

    def __init__(self, learning: Collator, forget: Collator):
        self.learning, self.forget = learning, forget

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One micro-batch.

        With texts to unlearn it also has `TextBatch`'s `reference` and `learning`, and where the
        rows have `base_log_probs`, these as (rows, tokens - 1). With texts to keep it has `top_ids`
        and `top_log_probs`, (labels of all rows, k). Right answers follow their texts.
        """
        is_kept, is_unlearned = ("top_ids" in rows[0]), any("reference" in row for row in rows)
        if not is_kept and not is_unlearned:
            return self.learning(rows)
        rights = [right_answer(row) for row in rows if "right_input_ids" in row]
        learning = ["reference" not in row for row in rows] + [True] * len(rights)
        rows = [*rows, *rights]
        batch = self.forget([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
        if is_kept:
            tops = [torch.tensor(row["top_ids"]) for row in rows]
            batch["top_ids"] = torch.cat(tops)
            batch["top_log_probs"] = torch.cat([torch.tensor(r["top_log_probs"]) for r in rows])
            return batch
        batch |= weights_of(rows)
        batch["reference"] = torch.tensor([float(row.get("reference", 0)) for row in rows])
        batch["learning"] = torch.tensor(learning)
        if any("base_log_probs" in row for row in rows):
            batch["base_log_probs"] = _at_labels(batch["labels"][:, 1:], rows)
        return batch


def right_answer(row: dict[str, Any]) -> dict[str, Any]:
    """The right answer to the prompt of a text to unlearn, as a row."""
    return {name: row[f"right_{name}"] for name in ("input_ids", "labels", "reference")}


def _at_labels(labels: Tensor, rows: list[dict[str, Any]]) -> Tensor:
    """The `base_log_probs` of the rows, one for each label, in the shape of the labels."""
    values = torch.zeros(labels.shape)
    for place, of_row, row in zip(values, labels, rows, strict=True):
        if "base_log_probs" in row:
            place[of_row != -100] = torch.tensor(row["base_log_probs"])
    return values


def predicted_tokens(batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Number of predicted tokens, a scalar: labels other than -100 after the first position."""
    return torch.stack([(batch["labels"][..., 1:] != -100).sum() for batch in batches]).sum()


def run_loader(
    plan: Plan,
    learning: DataLoader[Any],
    forget: Dataset | None,
    keep: Dataset | None,
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
    args: LWFConfig,
) -> tuple[DataLoader[Any], MixedBatches, int]:
    """The data loader of a whole run, its collator, and the texts of an unlearning step.

    Args:
        plan: what each step does.
        learning: the trainer's own loader of the learning data. Its data set lacks the columns that
            its collator does not take.
        forget: the texts to unlearn, with `input_ids`, `labels` and `reference`.
        keep: the texts to keep, with `input_ids`, `labels`, `top_ids` and `top_log_probs`.
        pad_token_id, batch_size, device, args: of the trainer.
    """
    if forget and not plan.unlearned(len(plan)):
        log.warning(
            "there will be no unlearning step: the run has %d learning steps and "
            "--unlearning_interval is %d; lower it",
            plan.learned(len(plan)),
            args.unlearning_interval,
        )
    texts, kept = forget or [], keep or []
    parts: Any = [learning.dataset, texts, kept, [empty_row(pad_token_id)]]
    rows: ConcatDataset[dict[str, Any]] = ConcatDataset([part for part in parts if len(part)])
    collate = MixedBatches(learning.collate_fn, DataCollatorForLanguageModeling(pad_token_id))
    batches: Any = learning.batch_sampler
    batches = getattr(batches, "batch_sampler", batches)  # unwrap the split over processes
    stream = StepStream(plan, batches, len(parts[0]), len(texts), batch_size, args, kept=len(kept))
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
