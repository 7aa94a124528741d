"""Intervals and paired tests, by scipy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, permutation_test, ttest_1samp

SIGNIFICANT = 0.05
MOST_NATS = 700.0


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """Share of right answers with its 95 % Wilson interval: `accuracy`, `n`, `ci95`."""
    n, count = len(right), sum(right)
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return {"accuracy": count / n, "n": n, "ci95": [float(interval.low), float(interval.high)]}


def score(values: Sequence[float]) -> dict[str, Any]:
    """Mean of scores from 0 to 1 with its 95 % bootstrap interval: `score`, `n`, `ci95`."""
    scores = np.array(values, dtype=float)
    return {"score": float(scores.mean()), "n": len(scores), "ci95": _interval(scores, 0.0)}


def perplexity(losses: Sequence[float] | np.ndarray) -> float:
    """The exponential of the mean of NLLs (nats), limited to what a float can hold."""
    return bounded_exp(float(np.mean(losses)))


def bounded_exp(nats: float) -> float:
    """The exponential, limited to what a float can hold."""
    return float(np.exp(min(nats, MOST_NATS)))


def mean(values: Sequence[float] | np.ndarray) -> tuple[float, list[float | None]]:
    """The mean and its 95 % interval by Student's t, which fewer than two values lack."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        return math.nan, [None, None]
    average = float(values.mean())
    if len(values) < 2 or not np.ptp(values):
        return average, [None, None] if len(values) < 2 else [average, average]
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    return average, [float(low), float(high)]


def _interval(values: np.ndarray, lowest: float) -> list[float]:
    """95 % interval of a mean: the BCa bootstrap over examples, whose values are `lowest` to 1."""
    if len(set(values)) > 1:
        rng = np.random.default_rng(0)
        resampled = bootstrap((values,), np.mean, n_resamples=9999, batch=256, rng=rng)
        low, high = map(float, resampled.confidence_interval)
    else:  # resampling equal numbers has no spread, yet n examples cannot prove that there is none
        bound = float(binomtest(0, len(values)).proportion_ci(0.95).high)
        low, high = max(lowest, values[0] - bound), min(1.0, values[0] + bound)
    return [low, high]


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Difference of two accuracies, or mean scores from 0 to 1, on the same examples.

    The p-value is that of the exact McNemar test where every answer is right or wrong, else that of
    the permutation test: for each example either model may have had either score. The interval is
    the BCa bootstrap over examples; if all differences are equal, it is the exact (Clopper-Pearson)
    bound on the share of examples that could differ.

    Args:
        ours, theirs: whether each answer is right, or its score, in the same order.

    Returns:
        `difference`, `ci95` (fractions) and `p_value`.
    """
    differences = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    return {
        "difference": float(differences.mean()),
        "ci95": _interval(differences, -1.0),
        "p_value": _p_value(differences),
    }


def _p_value(differences: np.ndarray) -> float:
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    if not won + lost:
        return 1.0
    if set(differences) <= {-1.0, 0.0, 1.0}:
        return float(binomtest(won, won + lost).pvalue)
    if len(differences) < 2:  # either sign is as likely
        return 1.0
    rng = np.random.default_rng(0)
    flipped = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, batch=256, rng=rng
    )
    return float(flipped.pvalue)


def paired_mean(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean difference of a metric on the same examples, by the paired t-test.

    Args:
        ours, theirs: values in the same order; pairs that are not finite are left out.

    Returns:
        `difference`, `ci95` and `p_value`; if fewer than two pairs remain, p is 1 and the limits of
        the interval are None.
    """
    differences = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    differences = differences[np.isfinite(differences)]
    if not differences.any():  # the two models are equal
        return {"difference": 0.0, "ci95": [0.0, 0.0], "p_value": 1.0}
    if len(differences) < 2:
        return {"difference": float(differences[0]), "ci95": [None, None], "p_value": 1.0}
    test = ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    mean, interval = float(differences.mean()), [float(low), float(high)]
    return {"difference": mean, "ci95": interval, "p_value": float(test.pvalue)}


def verdict(difference: dict[str, Any]) -> str:
    """Which model to keep, by the validation set: "lwf" if it is significantly better, else "sft".

    LWF is better if its accuracy is significantly higher, or if the NLL of the right answers is
    significantly lower and its accuracy not lower. Accuracy alone rarely differs significantly on
    a small set.

    Args:
        difference: the result of `paired_difference`, LWF minus SFT, with the result of
            `paired_mean` for the NLL of the right answers as `reference_nll`.
    """
    more = difference["difference"] > 0 and difference["p_value"] < SIGNIFICANT
    nll = difference["reference_nll"]
    likelier = nll["difference"] < 0 and nll["p_value"] < SIGNIFICANT
    return "lwf" if more or (likelier and difference["difference"] >= 0) else "sft"
