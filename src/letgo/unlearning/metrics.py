"""The figures of unlearning steps, for the log."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from letgo.unlearning.tracker import Tracker


class Metrics:
    """Gathers what micro-batches and steps report, and what it comes to since the last log."""

    def __init__(self) -> None:
        self._step = [0.0] * 4  # loss, sum of NLL, texts, skipped texts: of this process
        self._window: dict[str, float] = defaultdict(float)
        self._chosen: dict[str, float] = {}

    def rescored(
        self, scores: Sequence[float], chosen: Sequence[float], learning_norm: float
    ) -> None:
        """Take in the new scores of a sample of texts, and of those of them that were chosen.

        Args:
            scores: cosines.
            chosen: those of the texts that are unlearned from now on.
            learning_norm: of the mean learning gradient; times a cosine and the length of an
                update it is by how much that lowers the learning loss, to first order.
        """
        self._chosen = {
            "unlearn/helpful": sum(score > 0 for score in scores) / len(scores),
            "unlearn/learning_norm": learning_norm,
        }
        if chosen:
            self._chosen["unlearn/confidence"] = fmean(chosen)

    def micro_batch(self, loss: float, nll: Tensor, skipped: int) -> None:
        """Take in one micro-batch: its share of the loss, its texts' mean NLL, what was skipped."""
        values = (loss, float(nll.sum()), len(nll), skipped)
        self._step = [a + b for a, b in zip(self._step, values, strict=True)]

    def step(
        self,
        tracker: Tracker,
        reduce: Callable[[Tensor], Tensor],
        device: torch.device,
        norm: float,
        strength: float,
        clipped: bool,
        paused: bool,
    ) -> None:
        """Close an unlearning step.

        Args:
            tracker: counts the guards' acts.
            reduce: sums a tensor over all processes.
            device: where it reduces.
            norm: of the unlearning gradient before clipping.
            strength: what the step came to, as a fraction of a recent learning update (with
                separate state; the figure `update`, its length, holds then).
            clipped, paused: whether these guards acted.
        """
        loss, nll, texts, skipped = reduce(torch.tensor(self._step, device=device)).tolist()
        self._step = [0.0] * 4
        acted = {"skipped": int(skipped), "clipped": int(clipped), "paused": int(paused)}
        for name, count in acted.items():
            tracker.acted[name] += count
        figures = {
            "loss": loss,
            "nll": nll,
            "texts": texts,
            "grad_norm": norm,
            "strength": strength,
            "update": strength * tracker.update.value,
            "steps": 1,
            **acted,
        }
        for name, value in figures.items():
            self._window[name] += value

    def drain(self) -> dict[str, float]:
        """Means per step since the last log (NLL: per text), sums of the guards' acts."""
        sums, self._window = self._window, defaultdict(float)
        if not sums:
            return {}
        figures = {
            f"unlearn/{n}": sums[n] / sums["steps"]
            for n in ("loss", "grad_norm", "strength", "update")
        }
        figures["unlearn/nll"] = sums["nll"] / max(1, sums["texts"])
        for name in ("skipped", "clipped", "paused"):
            figures[f"unlearn/{name}"] = sums[name]
        figures |= self._chosen
        self._chosen = {}
        return figures


def learning_figures(logs: dict[str, float], window: Sequence[bool]) -> None:
    """Make a log line that the trainer has taken over steps of both kinds one of learning steps.

    Args:
        logs: changed in place.
        window: kind of every step since the last line, True for unlearning.
    """
    if learning := window.count(False):
        logs["loss"] *= len(window) / learning
    else:
        del logs["loss"], logs["learning_rate"]
    if window[-1]:  # an unlearning step's norm has a name of its own
        logs.pop("grad_norm", None)
