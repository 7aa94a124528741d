"""The numbers behind the figures of a run."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import spearmanr

from letgo.data.splits import elicited
from letgo.report.curves import Guards, TrainingCurves, read_curves
from letgo.run import folder as files
from letgo.run.folder import Row
from letgo.scoring.explain import layer_shares

GUARDS = {
    "skipped": "text above ceiling",
    "clipped": "gradient clipped",
    "paused": "paused: loss had risen",
    "idle": "no text would help",
}
# Columns that confidence is plotted against, and their labels.
CONFOUNDERS = {"tokens": "length in tokens", "loss_base": "loss of the base model"}
_BINS = 30


class FigureData(NamedTuple):
    """The numbers behind the figures of a run.

    Attributes:
        sft: the SFT baseline; its curves are empty if its log is missing.
        lwf: training with forgetting.
        texts: the texts with a finite confidence, as rows of `folder.read_texts`.
        threshold: the lowest confidence of a selected text, None if none was selected.
        shares: shares of the score by "matrix" and by "block"; empty for a score made of losses.
        outcomes: the outcomes of `metrics.json`; empty if they were not measured.
    """

    sft: TrainingCurves
    lwf: TrainingCurves
    texts: list[Row]
    threshold: float | None
    shares: dict[str, dict[str, float]]
    outcomes: Row


def has_texts(folder: Path) -> bool:
    """Whether the run writes and scores texts; one without forgetting sets does not."""
    return (
        bool(elicited(files.read_config(folder).get("forget") or []))
        or (folder / files.SCORES.name).exists()
    )


def scored_texts(folder: Path) -> list[Row]:
    """The rows of `folder.read_texts`; none in a run without forgetting sets.

    Raises:
        InputError: the folder lacks a file of a run that has them.
    """
    return files.read_texts(folder).to_pylist() if has_texts(folder) else []


def collect(folder: Path, texts: list[Row]) -> FigureData:
    """The numbers behind the figures of a run; `texts` are those of `scored_texts`."""
    scored = with_finite(texts, "confidence")
    scores = folder / files.SCORES.name
    return FigureData(
        read_curves(files.read_log(folder / "probe" / "train_log.jsonl")),
        read_curves(files.read_log(folder / "train_log.jsonl")),
        scored,
        min((row["confidence"] for row in scored if row["selected"]), default=None),
        layer_shares(pq.read_schema(scores).metadata if scores.exists() else None),
        files.read_json(folder / files.METRICS.name).get("outcomes") or {},
    )


def guard_counts(curves: TrainingCurves) -> Guards:
    """The learning steps and counts of every guard that acted, by its label."""
    return {GUARDS[name]: points for name, points in curves.guards.items() if points[0]}


def by_set(texts: list[Row]) -> dict[str, list[Row]]:
    """The texts of each forgetting set."""
    names = dict.fromkeys(row["forget_set"] for row in texts)
    return {name: [row for row in texts if row["forget_set"] == name] for name in names}


def with_finite(texts: list[Row], column: str) -> list[Row]:
    """The texts whose number in this column is neither missing nor infinite."""
    return [row for row in texts if row[column] is not None and math.isfinite(row[column])]


def is_wide(values: list[float]) -> bool:
    """Whether an axis for these values should be logarithmic, as squared distances may need."""
    return min(values) > 0 and max(values) > 100 * min(values)


def bin_edges(values: list[float]) -> NDArray[np.float64]:
    """The edges of a histogram's bins, one more than there are bins."""
    low, high = min(values), max(values)
    if is_wide(values):
        return np.geomspace(low, high, _BINS + 1)
    if high - low <= 1e-9 * abs(high):  # too narrow to be divided into bins
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return np.linspace(low, high, _BINS + 1)


def rank_correlation(x: list[float], y: list[float]) -> float | None:
    """Spearman's rank correlation; None for constant values or fewer than three pairs."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)
