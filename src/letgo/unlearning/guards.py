"""What keeps gradient ascent from blowing up."""

import torch
from torch import Tensor


class UnlearningDiverged(RuntimeError):
    """A loss or a gradient stopped being a finite number; names the cause and what to change."""


def below_ceiling(labels: Tensor, losses: Tensor, ceiling: float) -> tuple[Tensor, int]:
    """Leave out of the loss what is already forgotten.

    Args:
        labels: (batch, tokens), -100 where nothing is predicted.
        losses: (batch,) mean NLL of each example, nats per token.
        ceiling: examples at or above it contribute nothing.

    Returns:
        labels with the rows of those examples set to -100, and how many there were.
    """
    asked = (labels != -100).any(1)  # a row without labels cannot be skipped
    forgotten = (losses >= ceiling) & asked
    return labels.masked_fill(forgotten[:, None], -100), int(forgotten.sum())


def require_finite(value: Tensor | float, what: str, step: int) -> None:
    """Stop before a non-finite number reaches the weights or a checkpoint.

    Raises:
        UnlearningDiverged: `value` is infinite or not a number.
    """
    if not torch.isfinite(torch.as_tensor(value)):
        raise UnlearningDiverged(
            f"the {what} is {float(value)} at optimizer step {step + 1}; training stopped and the "
            f"last checkpoint is kept; lower --unlearning_rate or --unlearning_ceiling, or raise "
            f"--unlearning_interval"
        )
