"""Why a method gained or not, from the logs of a study's runs.

A run sees the learning batches of its SFT baseline in the same order, which allows comparing the
two learning losses batch by batch. Up to the first unlearning or keep step both are the same model,
and the difference on the next batch, not learned yet, is the effect of that single step.
"""

from collections.abc import Sequence
from statistics import fmean

from letgo.evaluation.statistics import paired_mean
from letgo.run.folder import Row


def mechanism(cells: Sequence[Row]) -> Row:
    """First-order predictions and actual changes of the learning loss, nats per token.

    Args:
        cells: contents of the cells' files of one task, forgetting set and method, one per seed.

    Returns:
        `mechanism` of results.schema.json; None for values that the runs do not have.
    """
    rescored = [line for cell in cells for line in cell["rescored"]]
    first = [cell["rescored"][0] for cell in cells if cell["rescored"]]
    promises = [
        line["confidence"] * line["learning_norm"] * line["update"]
        for line in first
        if None not in line.values()
    ]
    runs = [(cell.get("first_keep"), *_changes(cell["curves"])) for cell in cells]
    changes = [change for *_, change in runs if change]
    # Where a keep step came before the first batch that differs, unlearning is not alone.
    alone = [c[0] for keep, first, c in runs if c and (keep is None or keep > first)]
    return {
        "helpful": _mean([line["helpful"] for line in rescored]),
        "cosine": _mean([line["confidence"] for line in rescored]),
        "promise": _mean(promises),
        "first_step": _over_seeds(alone),
        "learning_loss": _over_seeds([fmean(change) for change in changes]),
    }


def _changes(curves: dict[str, list[list[float]]]) -> tuple[int, list[float]]:
    """The first learning step, from 0, at which the losses differ, and the differences from there.

    A difference is the learning loss minus SFT's.
    """
    pairs = zip(curves["method"][1], curves["sft"][1], strict=False)
    changes = [ours - theirs for ours, theirs in pairs]
    first = next((i for i, change in enumerate(changes) if change), len(changes))
    return first, changes[first:]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _over_seeds(values: list[float]) -> Row | None:
    return paired_mean(values, [0.0] * len(values)) if values else None
