"""Intervals and paired tests for accuracies, by scipy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

SIGNIFICANT = 0.05


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """Share of right answers with its 95 % Wilson interval: `accuracy`, `n`, `ci95`."""
    n, count = len(right), sum(right)
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return {"accuracy": count / n, "n": n, "ci95": [float(interval.low), float(interval.high)]}


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, Any]:
    """Difference of two accuracies on the same examples.

    The p-value is the exact McNemar test's. The interval is the BCa bootstrap over examples; where
    all examples say the same, the exact (Clopper-Pearson) bound on the share that could differ.

    Args:
        ours, theirs: right or wrong, example by example.

    Returns:
        `difference`, `ci95` (fractions) and `p_value`.
    """
    differences = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    n = len(differences)
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    if len(set(differences)) > 1:
        resampled = bootstrap(
            (differences,), np.mean, n_resamples=9999, batch=256, rng=np.random.default_rng(0)
        )
        low, high = map(float, resampled.confidence_interval)
    else:  # resampling equal numbers shows no spread, yet n examples cannot prove there is none
        bound = float(binomtest(0, n).proportion_ci(0.95).high)
        low, high = max(-1.0, differences[0] - bound), min(1.0, differences[0] + bound)
    return {
        "difference": float(differences.mean()),
        "ci95": [low, high],
        "p_value": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }


def verdict(difference: dict[str, Any]) -> str:
    """Which model to keep: "lwf" or "sft" where the paired test is significant."""
    if difference["p_value"] >= SIGNIFICANT:
        return "no difference"
    return "lwf" if difference["difference"] > 0 else "sft"
