"""What keeps unlearning from blowing up."""

import torch
from torch import Tensor

from letgo.unlearning.losses import Texts
from letgo.unlearning.tracker import Tracker


class Diverged(RuntimeError):
    """A loss or a gradient stopped being a finite number; names the cause and what to change."""


def below_ceiling(texts: Texts, ceiling: float) -> Tensor:
    """Which texts are not forgotten yet: (texts,) bool.

    Args:
        texts: a micro-batch; its learning examples have no ceiling.
        ceiling: texts whose mean NLL (nats per token) has reached it contribute nothing.
    """
    return (texts.nll < ceiling) | texts.learning


# A few losses are too few to call the lowest of their means a low.
_BEFORE_JUDGING = 5
_SMOOTHING = 0.8


def watch_learning(tracker: Tracker, loss: float) -> None:
    """Take the loss of one learning step into the smoothed loss and its low."""
    tracker.loss.add(loss, _SMOOTHING)
    if tracker.loss.count >= _BEFORE_JUDGING:
        tracker.lowest_loss = min(tracker.lowest_loss, tracker.loss.value)


def risen(tracker: Tracker, bound: float) -> bool:
    """Whether the smoothed learning loss lies more than `bound` nats above its low."""
    return (
        tracker.loss.count >= _BEFORE_JUDGING and tracker.loss.value > tracker.lowest_loss + bound
    )


LEARNING_REMEDY = "lower --learning_rate"
UNLEARNING_REMEDY = (
    "lower --unlearning_strength (or --unlearning_rate) or --unlearning_ceiling, or raise "
    "--unlearning_interval"
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


def check_norm(norm: float, unlearning: bool, step: int) -> None:
    """Stop before the update: a gradient may overflow where the loss does not.

    Args:
        norm: of the gradient of the step under way.
        unlearning: its kind.
        step: optimizer steps done.
    """
    if unlearning:
        require_finite(norm, "gradient norm of the forget batch", step)
    else:
        require_finite(norm, "gradient norm of learning", step, LEARNING_REMEDY)
