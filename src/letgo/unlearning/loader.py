"""The data loader of a run that unlearns: the stream of its steps, and the rows behind it."""

from collections.abc import Sequence
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from letgo.progress import log
from letgo.unlearning.stream import MixedBatches, MixedRows, StepStream


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
