"""What the pictures of a run show, before anything is drawn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from letgo.report.curves import Training, read_curves
from letgo.report.formats import decimal
from letgo.run import folder as files
from letgo.run.folder import Row
from letgo.scoring.explain import layer_shares

T = TypeVar("T")

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
        read_curves(files.read_log(folder / "probe" / "train_log.jsonl")),
        read_curves(files.read_log(folder / "train_log.jsonl")),
        scored,
        min((row["confidence"] for row in scored if row["selected"]), default=None),
        read_shares(folder),
    )


def each_figure(
    shown: Shown,
    training: Callable[[Shown], T],
    confidence: Callable[[list[Row], float | None], T],
    confounder: Callable[[list[Row], str], T],
    layers: Callable[[dict[str, dict[str, float]]], T],
) -> dict[str, T]:
    """Make every figure there is something to show in, by its name.

    Args:
        shown: the numbers of a run.
        training: makes the curves.
        confidence: makes the histograms, of texts and the threshold.
        confounder: holds the confidence of texts against a column of `CONFOUNDERS`.
        layers: makes the bars of shares of the score.
    """
    made: dict[str, T] = {}
    if runs(shown) or shown.lwf.unlearning[0]:
        made["training"] = training(shown)
    if shown.texts:
        made["confidence"] = confidence(shown.texts, shown.threshold)
    for key in CONFOUNDERS:
        if texts := [row for row in shown.texts if _finite(row[key])]:
            made[f"confidence-{key}"] = confounder(texts, key)
    if shown.shares:
        made["layers"] = layers(shown.shares)
    return made


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


def correlation(texts: list[Row], key: str) -> str:
    """Return how the confidence of texts goes with column `key`, in words."""
    rho = rank_correlation([row[key] for row in texts], [row["confidence"] for row in texts])
    return f"Spearman's \N{GREEK SMALL LETTER RHO} = {decimal(rho)}, n = {len(texts)}"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_shares(folder: Path) -> dict[str, dict[str, float]]:
    """Return each layer group's share of the score, as `explain.layer_shares`."""
    return layer_shares(pq.read_schema(folder / "scores.parquet").metadata)
