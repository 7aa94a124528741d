"""How much better one method is than another over seeds and examples, and how sure that is.

Every seed answers the same examples, so that seeds and examples are crossed random effects: a
difference must hold for other seeds *and* for other examples to count.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm, t
from statsmodels.stats.multitest import multipletests

MOST_SEEDS = 1000
POWER, SIGNIFICANT = 0.8, 0.05
NORMAL = float(norm.ppf(1 - SIGNIFICANT / 2))  # half a 95 % interval, in standard deviations


class Mean(NamedTuple):
    """A mean over seeds and examples.

    Attributes:
        value: the mean.
        variance: of the mean, for other seeds and other examples.
        freedom: degrees of freedom of that variance.
    """

    value: float
    variance: float
    freedom: float

    def interval(self) -> list[float]:
        """95 % interval."""
        half = float(t.ppf(1 - SIGNIFICANT / 2, self.freedom)) * math.sqrt(self.variance)
        return [self.value - half, self.value + half]

    def p_value(self) -> float:
        """Two-sided, against a mean of 0."""
        return float(2 * t.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))


def mean_squares(values: np.ndarray) -> np.ndarray:
    """Mean squares of seeds, examples and what is left, of a table (seeds, examples)."""
    seeds, examples = values.shape
    by_seed, by_example = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    left = values - by_seed - by_example + values.mean()
    return np.array(
        [
            examples * by_seed.var(ddof=1),
            seeds * by_example.var(ddof=1),
            (left**2).sum() / ((seeds - 1) * (examples - 1)),
        ]
    )


def crossed_mean(values: np.ndarray, unit: float = 1.0) -> Mean:
    """The mean of a table (seeds, examples), both drawn at random.

    The variance is the moment estimate of the two-way random model without replication,
    `(MS_seeds + MS_examples - MS_left) / (seeds * examples)`, its degrees of freedom are
    Satterthwaite's (Biometrics Bulletin 2, 1946). With one seed it holds for that seed alone.

    Where all values are the same, they do not prove that no other would differ: the interval is the
    exact (Clopper-Pearson) bound on the share of examples that could, times `unit`, by which one
    can.
    """
    seeds, examples = values.shape
    if examples == 1 or not np.ptp(values):
        bound = unit * float(binomtest(0, examples).proportion_ci(0.95).high)
        return Mean(float(values.mean()), (bound / NORMAL) ** 2, math.inf)
    if seeds == 1:
        return Mean(float(values.mean()), float(values.var(ddof=1) / examples), examples - 1)
    squares = mean_squares(values)
    sizes = np.array([seeds - 1, examples - 1, (seeds - 1) * (examples - 1)])
    # Never below what seeds or examples alone show: the difference of mean squares may be negative.
    total = max(float(squares @ [1, 1, -1]), squares[0], squares[1])
    spread = float((squares**2 / sizes).sum())
    return Mean(float(values.mean()), total / (seeds * examples), total**2 / spread)


def effect(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Difference of two methods, absolute and relative to the second.

    Args:
        ours, theirs: (seeds, examples), right (1) or wrong (0), or any figure per example.

    Returns:
        `difference`, `ci95`, `p_value`; `relative`, `relative_ci95` (by linearization; None where
        the second method has 0); `seeds`, `n`, and `seeds_needed` to find a difference of 0.02.
    """
    differences = np.asarray(ours, float) - np.asarray(theirs, float)
    found = crossed_mean(differences)
    ratio = relative(ours, theirs)
    return {
        "difference": found.value,
        "ci95": found.interval(),
        "p_value": found.p_value(),
        "relative": ratio.value if ratio else None,
        "relative_ci95": ratio.interval() if ratio else None,
        "seeds": len(differences),
        "n": differences.shape[1],
        "seeds_needed": seeds_needed(differences, 0.02),
    }


def relative(ours: np.ndarray, theirs: np.ndarray) -> Mean | None:
    """`mean(ours) / mean(theirs) - 1`, its variance by linearization; None where they have 0."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    below = theirs.mean()
    if below == 0:
        return None
    ratio = ours.mean() / below
    found = crossed_mean((ours - ratio * theirs) / below, 1 / below)
    return found._replace(value=float(ratio - 1))


def mean_of(means: Sequence[Mean]) -> Mean:
    """The mean of independent means."""
    parts = [(m.variance / len(means) ** 2, m.freedom) for m in means]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else math.inf
    return Mean(sum(m.value for m in means) / len(means), variance, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for having asked several times."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def seeds_needed(differences: np.ndarray, size: float) -> int | None:
    """How many seeds would find a true difference of `size` with a power of 0.8.

    None where one seed tells nothing of seeds, or where all examples say the same, or where more
    seeds would not do: the examples are too few.
    """
    seeds, examples = differences.shape
    if min(seeds, examples) == 1 or not np.ptp(differences):
        return None
    by_seed, by_example, left = mean_squares(differences)
    each = max(by_seed - left, 0.0) / examples  # variance components of one seed, ...
    fixed = max(by_example - left, 0.0) / seeds / examples  # ... of the examples, ...
    rest = left / examples  # ... and of what is left
    for count in range(2, MOST_SEEDS + 1):
        error = math.sqrt((each + rest) / count + fixed)
        bound = float(t.ppf(1 - SIGNIFICANT / 2, count - 1))
        if error == 0 or float(t.sf(bound - size / error, count - 1)) >= POWER:
            return count
    return None
