"""The metrics of unlearning steps, for the log."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from letgo.unlearning.schedule import Plan, Step


class Metrics:
    """Accumulates unlearning metrics between two log lines.

    Attributes:
        step_sums: of this process and step: loss, NLL, texts, skipped texts.
        keep_loss: of this process and keep step.
        logged_steps: the optimizer steps that log lines have described.
    """

    def __init__(self) -> None:
        self.step_sums = [0.0] * 4
        self.keep_loss = 0.0
        self.logged_steps = 0
        self._sums: dict[str, float] = defaultdict(float)  # since the last log line
        self._kept: list[float] = []  # the loss of each keep step since the last log line
        self._rescoring: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """What is not logged yet, for a checkpoint."""
        return {"sums": dict(self._sums), "kept": self._kept, "rescoring": self._rescoring}

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self._sums.update(saved["sums"])
        self._kept, self._rescoring = saved["kept"], saved["rescoring"]

    def rescored(
        self, scores: Sequence[float], chosen: Sequence[float], learning_norm: float | None
    ) -> None:
        """Record a re-scoring: the scores of the sample and of the texts chosen from it.

        `learning_norm` is the norm of the mean learning gradient, None if it was not computed;
        times a cosine and the length of an update it predicts the decrease of the learning loss.
        """
        self._rescoring = {
            "unlearn/helpful": sum(score > 0 for score in scores) / max(1, len(scores))
        }
        if learning_norm is not None:
            self._rescoring["unlearn/learning_norm"] = learning_norm
        if chosen:
            self._rescoring["unlearn/confidence"] = fmean(chosen)

    def micro_batch(self, loss: float, nll: Tensor, skipped: int) -> None:
        """Record a micro-batch: its share of the loss, NLL per text, number of skipped texts."""
        values = (loss, float(nll.sum()), len(nll), skipped)
        self.step_sums = [a + b for a, b in zip(self.step_sums, values, strict=True)]

    def step(self, sums: Sequence[float], **values: float) -> None:
        """Record an unlearning step: `step_sums` of all processes, and other metrics by name."""
        self.step_sums = [0.0] * 4
        sums_by_name = dict(zip(("loss", "nll", "texts", "skipped"), sums, strict=True))
        for name, value in {**sums_by_name, **values, "steps": 1}.items():
            self._sums[name] += value

    def keep_step(self, loss: float) -> None:
        """Record a keep step: its loss, of all processes together."""
        self.keep_loss = 0.0
        self._kept.append(loss)

    def drain(self) -> dict[str, float]:
        """Means per unlearning step since the last call (NLL: per text), and guard counts.

        Also the mean loss of the keep steps.
        """
        sums, self._sums = self._sums, defaultdict(float)
        kept, self._kept = self._kept, []
        keeping = {"keep/loss": fmean(kept)} if kept else {}
        if not sums:
            return keeping
        means = ("loss", "grad_norm", "strength", "update")
        metrics = {f"unlearn/{name}": sums[name] / sums["steps"] for name in means}
        metrics["unlearn/nll"] = sums["nll"] / max(1, sums["texts"])
        for name in ("skipped", "clipped", "paused"):
            metrics[f"unlearn/{name}"] = sums[name]
        metrics |= self._rescoring
        self._rescoring = {}
        return metrics | keeping

    def complete(self, logs: dict[str, float], plan: Plan, done: int) -> None:
        """Make a log line describe the learning steps only, and add the other steps' metrics.

        Args:
            logs: of the trainer, on all steps since the last line; changed in place.
            plan, done: of the run, and the optimizer steps so far.
        """
        steps, self.logged_steps = plan.steps[self.logged_steps : done], done
        if learning := steps.count(Step.LEARN):
            logs["loss"] *= len(steps) / learning
        else:
            del logs["loss"], logs["learning_rate"]
        if steps[-1] != Step.LEARN:  # the norm of an unlearning gradient has another name
            logs.pop("grad_norm", None)
        if metrics := self.drain():
            logs |= {**metrics, "unlearn/steps": plan.unlearned(done)}
            logs |= {"keep/steps": kept} if (kept := plan.kept(done)) else {}
