"""Guards: limits on unlearning, and checks that losses and gradients are finite."""

import torch
from torch import Tensor

from letgo.unlearning.config import LWFConfig
from letgo.unlearning.losses import LOSSES, TextBatch
from letgo.unlearning.tracker import Tracker


class Diverged(RuntimeError):
    """A loss or a gradient is not finite; the message names the cause and what to change."""


UNLEARNING_REMEDY = (
    "lower --unlearning_strength (or --unlearning_rate) or --unlearning_ceiling, or raise "
    "--unlearning_interval"
)


def guarded_loss(texts: TextBatch, args: LWFConfig, step: int) -> tuple[Tensor, Tensor, int]:
    """A micro-batch's unlearning loss without the texts at the ceiling.

    The ceiling does not apply to learning examples.

    Returns:
        The share of the step's loss (a scalar), the mean NLL of each text (texts,) in nats per
        token, and the number of texts at the ceiling.

    Raises:
        Diverged: the loss is not finite.
    """
    loss, nll = LOSSES[args.unlearning_loss], texts.nll[~texts.learning]
    require_finite(nll.sum(), "loss of the forget batch", step, True)
    used = texts
    if loss.bounded:
        used = texts.rows((texts.nll < args.unlearning_ceiling) | texts.learning)
    skipped = len(texts.learning) - len(used.learning)
    return loss(used, args.unlearning_beta), nll, skipped


# Before so many losses their lowest running mean says little.
_FIRST_LOSSES = 5
_SMOOTHING = 0.8


def watch_learning(tracker: Tracker, loss: float) -> None:
    """Add the loss of a learning step to the smoothed loss and its lowest value."""
    tracker.loss.add(loss, _SMOOTHING)
    if tracker.loss.count >= _FIRST_LOSSES:
        tracker.lowest_loss = min(tracker.lowest_loss, tracker.loss.value)


def loss_has_risen(tracker: Tracker, limit: float) -> bool:
    """Whether the smoothed learning loss is more than `limit` nats above its lowest value."""
    return tracker.loss.count >= _FIRST_LOSSES and tracker.loss.value > tracker.lowest_loss + limit


def require_finite(value: Tensor | float, name: str, step: int, unlearning: bool) -> None:
    """Stop the run before a non-finite loss or gradient norm reaches the weights or a checkpoint.

    Raises:
        Diverged: `value` is infinite or NaN; `step` counts the optimizer steps before this one.
    """
    if not torch.isfinite(torch.as_tensor(value)):
        raise Diverged(
            f"the {name} is {float(value)} at optimizer step {step + 1}; training stopped, the "
            f"last checkpoint is intact; "
            f"{UNLEARNING_REMEDY if unlearning else 'lower --learning_rate'}"
        )
