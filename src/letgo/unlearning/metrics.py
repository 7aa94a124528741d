"""The metrics of unlearning steps, for the log."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from letgo.unlearning.tracker import Tracker


class Metrics:
    """Accumulates unlearning metrics between two log lines."""

    def __init__(self) -> None:
        self._step = [0.0] * 4  # of this process: loss, sum of NLL, texts, skipped texts
        self._sums: dict[str, float] = defaultdict(float)  # since the last log line
        self._rescoring: dict[str, float] = {}

    def rescored(
        self, scores: Sequence[float], chosen: Sequence[float], learning_norm: float | None
    ) -> None:
        """Record the result of a re-scoring.

        Args:
            scores: of the sampled texts.
            chosen: of those of them that are unlearned from now on.
            learning_norm: norm of the mean learning gradient, None if it was not computed; times a
                cosine and the length of an update it predicts the decrease of the learning loss.
        """
        self._rescoring = {"unlearn/helpful": sum(score > 0 for score in scores) / len(scores)}
        if learning_norm is not None:
            self._rescoring["unlearn/learning_norm"] = learning_norm
        if chosen:
            self._rescoring["unlearn/confidence"] = fmean(chosen)

    def micro_batch(self, loss: float, nll: Tensor, skipped: int) -> None:
        """Record a micro-batch.

        Args:
            loss: its share of the step's loss.
            nll: (texts,) mean NLL of each text, nats per token.
            skipped: number of texts at the ceiling.
        """
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
        """Record the end of an unlearning step.

        Args:
            tracker: its guard counts are increased.
            reduce: sums a tensor over all processes.
            device: where `reduce` works.
            norm: of the unlearning gradient before clipping.
            strength: as `StepSize.strength`. The metric `update`, the length of the update, is only
                correct with separate optimizer state.
            clipped: whether the gradient was clipped.
            paused: whether unlearning was paused.
        """
        loss, nll, texts, skipped = reduce(torch.tensor(self._step, device=device)).tolist()
        self._step = [0.0] * 4
        guards = {"skipped": int(skipped), "clipped": int(clipped), "paused": int(paused)}
        for name, count in guards.items():
            tracker.guard_counts[name] += count
        values = {
            "loss": loss,
            "nll": nll,
            "texts": texts,
            "grad_norm": norm,
            "strength": strength,
            "update": strength * tracker.update.value,
            "steps": 1,
            **guards,
        }
        for name, value in values.items():
            self._sums[name] += value

    def drain(self) -> dict[str, float]:
        """Means per unlearning step since the last call (NLL: per text), and guard counts."""
        sums, self._sums = self._sums, defaultdict(float)
        if not sums:
            return {}
        means = ("loss", "grad_norm", "strength", "update")
        metrics = {f"unlearn/{name}": sums[name] / sums["steps"] for name in means}
        metrics["unlearn/nll"] = sums["nll"] / max(1, sums["texts"])
        for name in ("skipped", "clipped", "paused"):
            metrics[f"unlearn/{name}"] = sums[name]
        metrics |= self._rescoring
        self._rescoring = {}
        return metrics


def learning_only(logs: dict[str, float], steps: Sequence[bool]) -> None:
    """Rescale a log line so that it describes the learning steps only.

    Args:
        logs: changed in place.
        steps: for every step since the last line, whether it was an unlearning step.
    """
    if learning := steps.count(False):
        logs["loss"] *= len(steps) / learning
    else:
        del logs["loss"], logs["learning_rate"]
    if steps[-1]:  # the gradient norm of an unlearning step is logged under another name
        logs.pop("grad_norm", None)
