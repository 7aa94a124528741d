"""Does a first-order score of a forgetting set predict the gain from unlearning it?

usage: python studies/rank.py DATA FOLDER   DATA: as studies/split.py writes it

Ranks the forgetting sets of two tasks of paper.yaml before any training, and compares the ranks
with the results of the runs in paper/: the difference to the SFT baseline in accuracy, and in the
NLL of right answers, on the seeds that all sets have. Writes studies/rank.json.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import bootstrap, permutation_test, rankdata, spearmanr

from letgo.evaluation.effects import NORMAL, effect
from letgo.run.folder import write_json
from letgo.run.provenance import git_revision, versions
from letgo.study.cells import read_cells
from letgo.study.comparisons import Finished, table
from letgo.study.plan import SFT, Cell, read_study

OTHERS = ("qasc", "dental", "psychol", "gsm8k")
# By task: learning data, number of learning examples, forgetting sets, and the methods run on them.
TASKS = {
    "base9_64": ("base9", 64, ("base10", "sst5", *OTHERS), ("lwf", "lwf_sets")),
    "sst5": ("sst5", 256, OTHERS, ("sst5_sets",)),
}
FRACTION, DRAWS = 0.5, 9999
STUDIES = Path(__file__).parent


class Candidate(NamedTuple):
    """The first-order score of a forgetting set.

    Attributes:
        name: name of the set.
        texts: number of scored texts.
        promise: mean over its top `forget_fraction` of the cosine between ascent on the text and
            descent on the learning loss; negative cosines count as 0.
        ci95: bootstrap interval of the promise, over texts.
        helpful: share of its texts on which ascent would lower the learning loss.
    """

    name: str
    texts: int
    promise: float
    ci95: list[float]
    helpful: float


def rank(scores: Path, fraction: float) -> list[Candidate]:
    """Forgetting sets by their promise, best first.

    The first-order change of the learning loss by a step of fixed length is proportional to the
    cosine. Training skips texts with a negative one, which therefore count as 0.

    Args:
        scores: `scores.parquet` with the score `gradient`.
        fraction: share of the texts that may be unlearned.
    """
    by_set: dict[str, list[float]] = {}
    for row in pq.read_table(scores, columns=["forget_set", "confidence"]).to_pylist():
        by_set.setdefault(row["forget_set"], []).append(row["confidence"])
    candidates = []
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
        helpful = float((confidence > 0).mean())
        candidates.append(Candidate(name, len(values), float(promise(confidence)), ends, helpful))
    return sorted(candidates, key=lambda candidate: -candidate.promise)


def main() -> None:
    """Rank, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    data, folder = arguments.data, arguments.folder
    write_json(
        STUDIES / "rank.json",
        {
            "tasks": {task: ranked(task, data, folder / task) for task in TASKS},
            "versions": versions(),
            "git_revision": git_revision(),
        },
    )


def ranked(task: str, data: Path, folder: Path) -> dict[str, Any]:
    """Promises and gains of one task's sets, and the rank correlation of the two."""
    learn, examples, sets, methods = TASKS[task]
    settings = {
        "model": "smollm2-135m",
        "learn": data / learn / "train.jsonl",
        "max_learn": examples,
        "max_forget": 24,
        "max_new_tokens": 48,
        "max_length": 512,
        "optimum": "gradient",  # no fine-tuning: gradients of the base model are enough
        "score": "gradient",
        "output_dir": folder,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    sources = [str(data / name / "train.jsonl") for name in sets]
    for stage in ("elicit", "probe", "score"):
        command = [sys.executable, "-m", "letgo", stage, *flags, "--forget", *sources]
        subprocess.run(command, check=True)
    candidates = {one.name: one for one in rank(folder / "scores.parquet", FRACTION)}
    seeds, results = compared(task, methods, candidates)
    return {
        "seeds": seeds,
        "sets": results,
        "spearman": {
            "accuracy": agreement(results, "accuracy", 1),
            "reference_nll": agreement(results, "reference_nll", -1),
        },
    }


def compared(
    task: str, methods: tuple[str, ...], candidates: dict[str, Candidate]
) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """The seeds that all sets have, and the promise and the gain of every set on them."""
    root = STUDIES / "paper"
    finished = {
        cell: Finished(file["answers"], None)
        for cell, file in read_cells(root, read_study(root / "study.yaml")).items()
        if cell.task == task and cell.method in methods and cell.forget in candidates
    }
    by_set: dict[str, list[Cell]] = {}
    for cell in sorted(finished):
        by_set.setdefault(cell.forget, []).append(cell)
    seeds = sorted(set.intersection(*({cell.seed for cell in cells} for cells in by_set.values())))
    results: dict[str, dict[str, Any]] = {}
    for name, cells in by_set.items():
        compared_cells = [cell for cell in cells if cell.seed in seeds]
        candidate = candidates[name]
        results[name] = {"promise": candidate.promise, "promise_ci95": candidate.ci95}
        for metric, title in (("correct", "accuracy"), ("reference_nll", "reference_nll")):
            both = (table(finished, compared_cells, metric, model) for model in ("lwf", SFT))
            results[name][title] = effect(*both)
    return seeds, results


def agreement(results: dict[str, Any], metric: str, sign: int) -> dict[str, Any]:
    """Spearman's correlation of promise and gain.

    Args:
        results: promise and gains by set.
        metric: the gain's metric.
        sign: 1 where larger values are better, -1 where smaller ones are.

    Returns:
        `rho`; `p_value` by all permutations; `ci95` over the errors of both sides, each drawn from
        a normal distribution as wide as its interval.
    """
    promise = np.array([one["promise"] for one in results.values()])
    gain = sign * np.array([one[metric]["difference"] for one in results.values()])
    test = permutation_test(
        (promise,), lambda x: spearmanr(x, gain).statistic, permutation_type="pairings"
    )
    rng = np.random.default_rng(0)
    drawn = [
        rankdata(
            rng.normal(value, [width(ci95(one)) for one in results.values()], (DRAWS, len(value))),
            axis=1,
        )
        for value, ci95 in (
            (promise, lambda one: one["promise_ci95"]),
            (gain, lambda one: one[metric]["ci95"]),
        )
    ]
    left, right = (ranks - ranks.mean(1, keepdims=True) for ranks in drawn)
    rho = (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return {
        "rho": float(test.statistic),
        "p_value": float(test.pvalue),
        "sets": len(results),
        "ci95": [float(end) for end in np.quantile(rho, [0.025, 0.975])],
    }


def width(interval: list[float]) -> float:
    """Standard deviation of a number with this 95 % interval."""
    low, high = interval
    return float(high - low) / (2 * NORMAL)


if __name__ == "__main__":
    main()
