"""What keeps gradient ascent from blowing up."""

import torch
from torch import Tensor


class Diverged(RuntimeError):
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


UNLEARNING_REMEDY = (
    "lower --unlearning_rate or --unlearning_ceiling, or raise --unlearning_interval"
)


def require_finite(
    value: Tensor | float, what: str, step: int, remedy: str = UNLEARNING_REMEDY
) -> None:
    """Stop before a non-finite number reaches the weights or a checkpoint.

    Args:
        value: a loss or a norm.
        what: its name.
        step: optimizer steps done.
        remedy: what to change.

    Raises:
        Diverged: `value` is infinite or not a number.
    """
    if not torch.isfinite(torch.as_tensor(value)):
        raise Diverged(
            f"the {what} is {float(value)} at optimizer step {step + 1}; training stopped and the "
            f"last checkpoint is kept; {remedy}"
        )
