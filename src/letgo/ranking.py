"""Which forgetting set is worth it, before paying for training."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import bootstrap

from letgo.confidence.scores import DEFAULT_SCORE

# Enough texts to tell sets apart, and no fine-tuning: only gradients at the base model are needed.
SETTINGS: dict[str, Any] = {
    "max_forget": 48,
    "optimum": "gradient",
    "score": DEFAULT_SCORE,
    "output_dir": "runs/rank",
}


class Candidate(NamedTuple):
    """What a forgetting set promises.

    Attributes:
        name: of the set.
        texts: how many were scored.
        promise: mean over its top `forget_fraction` of the cosine between ascent on the text and
            descent on the learning loss, 0 where that is negative.
        ci95: bootstrap interval over its texts.
        helpful: share of its texts on which ascent would lower the learning loss.
    """

    name: str
    texts: int
    promise: float
    ci95: list[float]
    helpful: float


def rank(scores: Path, fraction: float) -> list[Candidate]:
    """Forgetting sets by what unlearning their texts promises, best first.

    The first-order change of the learning loss by a step of given length is proportional to the
    cosine; training leaves out texts that would hurt, so they count as nothing and not as a loss.

    Args:
        scores: `scores.parquet` with the score `gradient`.
        fraction: share of the texts that may be unlearned.
    """
    by_set: dict[str, list[float]] = {}
    for row in pq.read_table(scores, columns=["forget_set", "confidence"]).to_pylist():
        by_set.setdefault(row["forget_set"], []).append(row["confidence"])
    found = []
    for name, values in by_set.items():
        confidence = np.array(values)

        def promise(sample: np.ndarray, axis: int = -1) -> np.ndarray:
            count = max(1, round(fraction * sample.shape[axis]))
            top = np.sort(sample, axis=axis)[..., -count:]
            return np.maximum(top, 0).mean(axis=-1)

        drawn = bootstrap(
            (confidence,),
            promise,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(0),
        )
        ends = [float(end) for end in drawn.confidence_interval]
        found.append(
            Candidate(
                name, len(values), float(promise(confidence)), ends, float((confidence > 0).mean())
            )
        )
    return sorted(found, key=lambda candidate: -candidate.promise)


def table(candidates: list[Candidate]) -> str:
    """The ranking as text."""
    lines = [
        f"{'forgetting set':24}{'promise, 95 % interval':>28}{'texts that help':>18}{'texts':>8}"
    ]
    for one in candidates:
        ends = f"{one.promise:.4f} [{one.ci95[0]:.4f}, {one.ci95[1]:.4f}]"
        lines.append(f"{one.name:24}{ends:>28}{one.helpful:>18.0%}{one.texts:>8}")
    return "\n".join(lines)
