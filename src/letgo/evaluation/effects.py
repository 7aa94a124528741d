"""The difference of two methods over seeds and examples, with its uncertainty.

All seeds are evaluated on the same examples: seeds and examples are crossed random effects, and a
difference counts only if it would hold for other seeds *and* for other examples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm, t

from letgo.run.folder import Row

MOST_SEEDS = 1000
POWER, SIGNIFICANT = 0.8, 0.05
NORMAL = float(norm.ppf(1 - SIGNIFICANT / 2))  # half a 95 % interval, in standard deviations


class Mean(NamedTuple):
    """A mean over seeds and examples, its variance, and that variance's degrees of freedom."""

    value: float
    variance: float
    freedom: float

    def interval(self) -> list[float]:
        """95 % interval."""
        half = float(t.ppf(1 - SIGNIFICANT / 2, self.freedom)) * math.sqrt(self.variance)
        return [self.value - half, self.value + half]

    def detectable(self) -> float:
        """The difference that as many seeds and examples would find with a power of 0.8."""
        return _deviations(self.freedom) * math.sqrt(self.variance)

    def p_value(self) -> float:
        """Two-sided p-value against a mean of 0."""
        return float(2 * t.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))


def mean_squares(values: np.ndarray) -> np.ndarray:
    """Mean squares (3,) of seeds, examples and residuals, of values (seeds, examples)."""
    seeds, examples = values.shape
    by_seed, by_example = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    residuals = values - by_seed - by_example + values.mean()
    residual = (residuals**2).sum() / ((seeds - 1) * (examples - 1))
    return np.array([examples * by_seed.var(ddof=1), seeds * by_example.var(ddof=1), residual])


def crossed_mean(values: np.ndarray, unit: float = 1.0) -> Mean:
    """The mean of values (seeds, examples), with seeds and examples both drawn at random.

    The variance is the moment estimate of the two-way random model without replication,
    `(MS_seeds + MS_examples - MS_residuals) / (seeds * examples)`; its degrees of freedom are
    Satterthwaite's (Biometrics Bulletin 2, 1946). With one seed it is valid for that seed only.

    If all values are equal, other examples may still differ: the interval is the exact
    (Clopper-Pearson) bound on their share, times `unit`, the difference of a single example.
    """
    seeds, examples = values.shape
    if examples == 1 or not np.ptp(values):
        bound = unit * float(binomtest(0, examples).proportion_ci(0.95).high)
        return Mean(float(values.mean()), (bound / NORMAL) ** 2, math.inf)
    if seeds == 1:
        return Mean(float(values.mean()), float(values.var(ddof=1) / examples), examples - 1)
    squares = mean_squares(values)
    sizes = np.array([seeds - 1, examples - 1, (seeds - 1) * (examples - 1)])
    # At least the variance of seeds or examples alone: the sum with a minus may be negative.
    total = max(float(squares @ [1, 1, -1]), squares[0], squares[1])
    spread = float((squares**2 / sizes).sum())
    return Mean(float(values.mean()), total / (seeds * examples), total**2 / spread)


def effect(ours: np.ndarray, theirs: np.ndarray, size: float = 0.02) -> Row:
    """Difference of two methods, absolute and relative to the second.

    Args:
        ours, theirs: (seeds, examples), any metric, e.g. 1 for a correct answer and 0 for another.
        size: a difference worth finding.

    Returns:
        `difference`, `ci95`, `p_value`; `relative`, `relative_ci95` (by linearization; None if the
        mean of `theirs` is 0); `seeds`, `n`, and `seeds_needed` to find a difference of `size`.
    """
    differences = ours - theirs
    mean = crossed_mean(differences)
    ratio = relative(ours, theirs)
    return {
        "difference": mean.value,
        "ci95": mean.interval(),
        "p_value": mean.p_value(),
        "relative": ratio.value if ratio else None,
        "relative_ci95": ratio.interval() if ratio else None,
        "seeds": len(differences),
        "n": differences.shape[1],
        "seeds_needed": seeds_needed(differences, size),
    }


def worth(row: Row) -> Row | None:
    """The effect on what answers are worth: on their score, else on the accuracy; None without."""
    return next((row[name] for name in ("score", "accuracy") if name in row), None)


def relative(ours: np.ndarray, theirs: np.ndarray) -> Mean | None:
    """`mean(ours) / mean(theirs) - 1`, its variance by linearization; None if theirs is 0."""
    reference = theirs.mean()
    if reference == 0:
        return None
    ratio = ours.mean() / reference
    mean = crossed_mean((ours - ratio * theirs) / reference, 1 / reference)
    return mean._replace(value=float(ratio - 1))


def mean_of(means: Sequence[Mean]) -> Mean:
    """The mean of independent means."""
    parts = [(m.variance / len(means) ** 2, m.freedom) for m in means]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else math.inf
    return Mean(sum(m.value for m in means) / len(means), variance, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values with Holm's correction for multiple comparisons (Scand. J. Stat. 6, 1979)."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    scaled = values[order] * np.arange(len(values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in corrected]


def seeds_needed(differences: np.ndarray, size: float) -> int | None:
    """Number of seeds that would find a true difference of `size` with a power of 0.8.

    None with one seed or one example, if all differences are equal, or if no number of seeds is
    enough because there are too few examples.
    """
    seeds, examples = differences.shape
    if min(seeds, examples) == 1 or not np.ptp(differences):
        return None
    parts = _components(differences)
    each, rest = parts.seeds, parts.residuals / examples
    fixed = parts.examples / examples
    counts = np.arange(2, MOST_SEEDS + 1)
    errors = np.sqrt((each + rest) / counts + fixed)
    bounds = t.ppf(1 - SIGNIFICANT / 2, counts - 1)
    with np.errstate(divide="ignore"):  # without any error two seeds are enough
        enough = t.sf(bounds - size / errors, counts - 1) >= POWER
    return int(counts[enough.argmax()]) if enough.any() else None


def examples_needed(differences: np.ndarray, size: float) -> int | None:
    """Number of examples that would find a true difference of `size` with a power of 0.8.

    It is for the number of seeds at hand; with one seed it is valid for that seed only.

    Args:
        differences: (seeds, examples).
        size: the difference, in the unit of `differences`.

    Returns:
        None with one example, if all differences are equal, or if no number of examples is enough
        because seeds differ too much.
    """
    seeds, examples = differences.shape
    if examples == 1 or not np.ptp(differences):
        return None
    if seeds == 1:
        variance = float(differences.var(ddof=1))
        # The normal quantiles are a little too small for Student's t (Guenther 1981).
        return math.ceil(variance * (_deviations(math.inf) / size) ** 2 + NORMAL**2 / 2)
    parts = _components(differences)
    left = (size / _deviations(seeds - 1)) ** 2 - parts.seeds / seeds
    return math.ceil((parts.examples + parts.residuals / seeds) / left) if left > 0 else None


class _Components(NamedTuple):
    """Variances of one seed, of one example, and of the residual of both."""

    seeds: float
    examples: float
    residuals: float


def _components(differences: np.ndarray) -> _Components:
    """The variance components of differences (seeds, examples), with two or more of either."""
    seeds, examples = differences.shape
    by_seed, by_example, residual = map(float, mean_squares(differences))
    of_seed = max(by_seed - residual, 0.0) / examples
    return _Components(of_seed, max(by_example - residual, 0.0) / seeds, residual)


def _deviations(freedom: float) -> float:
    """How many standard errors a difference must have to be found with a power of 0.8."""
    return float(t.ppf(1 - SIGNIFICANT / 2, freedom) + t.ppf(POWER, freedom))
