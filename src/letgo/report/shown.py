"""What the pictures of a run show, before anything is drawn."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from letgo.report import folder as files
from letgo.report.folder import Row
from letgo.report.training import Training, follow

GUARDS = {
    "skipped": "text above ceiling",
    "clipped": "gradient clipped",
    "paused": "pause: loss had risen",
    "idle": "no text would help",
}
# Columns that confidence is held against, by what they are called.
CONFOUNDERS = {"tokens": "length in tokens", "loss_base": "loss of the base model"}
_BINS = 30


class Shown(NamedTuple):
    """The numbers of a run that pictures are made of.

    Attributes:
        sft: plain fine-tuning, with empty curves where its log is not known.
        lwf: training with forgetting.
        texts: every text with a finite confidence, as rows of `folder.read_texts`.
        threshold: the lowest confidence that was selected, None where nothing was.
        shares: of the score, by "matrix" and by "block"; empty where layers have none.
    """

    sft: Training
    lwf: Training
    texts: list[Row]
    threshold: float | None
    shares: dict[str, dict[str, float]]


def collect(folder: Path, texts: list[Row]) -> Shown:
    """Return what the pictures of a run folder show.

    Args:
        folder: the run's folder.
        texts: its texts, as `folder.read_texts` gives them.
    """
    scored = [row for row in texts if _finite(row["confidence"])]
    return Shown(
        follow(files.read_log(folder / "probe" / "train_log.jsonl")),
        follow(files.read_log(folder / "train_log.jsonl")),
        scored,
        min((row["confidence"] for row in scored if row["selected"]), default=None),
        files.read_shares(folder),
    )


def runs(shown: Shown) -> dict[str, Training]:
    """Return the runs of training that have a learning curve, by name."""
    both = {"SFT": shown.sft, "LWF": shown.lwf}
    return {name: run for name, run in both.items() if run.learning[0]}


def acted(training: Training) -> dict[str, tuple[list[int], list[int]]]:
    """Return the guards that acted, by what to call it, with their steps and counts."""
    found = {GUARDS[name]: points for name, points in training.guards.items()}
    return {label: points for label, points in found.items() if points[0]}


def by_set(texts: list[Row]) -> dict[str, list[Row]]:
    """Return the texts of each forgetting set."""
    names = dict.fromkeys(row["forget_set"] for row in texts)
    return {name: [row for row in texts if row["forget_set"] == name] for name in names}


def with_number(texts: list[Row], key: str) -> list[Row]:
    """Return the texts whose number in column `key` is known."""
    return [row for row in texts if _finite(row[key])]


def is_wide(values: list[float]) -> bool:
    """Return whether an axis for these values should be logarithmic."""
    # A squared distance may spread over orders of magnitude.
    return min(values) > 0 and max(values) > 100 * min(values)


def bin_edges(values: list[float]) -> Any:
    """Return the edges of a histogram's bins, an array with one value more than there are bins."""
    low, high = min(values), max(values)
    if is_wide(values):
        return np.geomspace(low, high, _BINS + 1)
    if high - low <= 1e-9 * abs(high):  # too little to cut into bins
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return np.linspace(low, high, _BINS + 1)


def rank_correlation(x: list[float], y: list[float]) -> float | None:
    """Return Spearman's rank correlation, None where there is too little to have one."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
