"""The time that the rest of a study will take, from the seconds of its finished runs."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from letgo.study.plan import Cell


def expected_seconds(remaining: Sequence[Cell], taken: Mapping[Cell, float]) -> float | None:
    """Seconds that the remaining runs will take, one after the other; None without a finished run.

    A run is expected to take the median of the finished runs of its task and method, or else of
    its task, or else the mean of all.

    Args:
        remaining: cells that are not finished.
        taken: seconds of the finished ones.
    """
    if not taken:
        return None
    total = 0.0
    for cell in remaining:
        of_task = {other: value for other, value in taken.items() if other.task == cell.task}
        alike = [value for other, value in of_task.items() if other.method == cell.method]
        similar = alike or list(of_task.values())
        total += median(similar) if similar else fmean(taken.values())
    return total
