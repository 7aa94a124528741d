"""What unlearning promised and what it did, from the logs of a study's runs.

A run sees the batches of plain fine-tuning in the same order, so that its learning loss can be
compared batch by batch. Up to the first unlearning step both are the same model: what differs right
after it is what that one step did, to a batch that has not been learned yet.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from letgo.evaluation.statistics import paired_mean


def mechanism(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one task, forgetting set and method; None where runs do not say.

    Args:
        cells: the files of its runs, with `rescored` and `curves`, one per seed.

    Returns:
        `helpful`: share of the texts whose unlearning would lower the learning loss, to first
        order; `cosine` of the chosen texts with the learning gradient; `promise`: by how much the
        first unlearning step would lower the learning loss by that, nats; `first_step`: what it
        did to the next batch's learning loss, and `learning_loss`: what all of them did to that of
        the steps after it, method minus plain fine-tuning, each a mean over seeds with interval.
    """
    asked = [line for cell in cells for line in cell["rescored"]]
    first = [cell["rescored"][0] for cell in cells if cell["rescored"]]
    promises = [
        line["confidence"] * line["learning_norm"] * line["update"]
        for line in first
        if None not in line.values()
    ]
    changes = [change for cell in cells if (change := _changes(cell["curves"]))]
    return {
        "helpful": _mean([line["helpful"] for line in asked]),
        "cosine": _mean([line["confidence"] for line in asked]),
        "promise": _mean(promises),
        "first_step": _over_seeds([change[0] for change in changes]),
        "learning_loss": _over_seeds([fmean(change) for change in changes]),
    }


def _changes(curves: dict[str, list[list[float]]]) -> list[float]:
    """Learning loss minus plain fine-tuning's, step by step from where they first differ."""
    pairs = zip(curves["method"][1], curves["sft"][1], strict=False)
    changes = [ours - theirs for ours, theirs in pairs]
    begun = next((i for i, change in enumerate(changes) if change), len(changes))
    return changes[begun:]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _over_seeds(values: list[float]) -> dict[str, Any] | None:
    return paired_mean(values, [0.0] * len(values)) if values else None
