"""Does the first-order promise of a forgetting set predict what it is worth?

usage: python studies/rank.py DATA FOLDER   DATA: as studies/split.py writes it

Ranks the forgetting sets of two tasks of paper.yaml before any training, and compares what each
promises with what the runs in paper/ found: the difference to plain fine-tuning in accuracy, and in
the NLL of right answers, on the seeds that all sets have. Writes studies/rank.json.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import bootstrap, permutation_test, rankdata, spearmanr

from letgo.run.folder import write_json
from letgo.run.provenance import git_revision, versions
from letgo.study.comparisons import Finished, table
from letgo.study.effects import NORMAL, effect
from letgo.study.plan import SFT, read_study
from letgo.study.results import read_cells

OTHERS = ("qasc", "dental", "psychol", "gsm8k")
# Learning data, how many of them, the forgetting sets, and the methods that forget them.
TASKS = {
    "base9_64": ("base9", 64, ("base10", "sst5", *OTHERS), ("lwf", "lwf_sets")),
    "sst5": ("sst5", 256, OTHERS, ("sst5_sets",)),
}
FRACTION, DRAWS = 0.5, 9999
STUDIES = Path(__file__).parent


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


def main() -> None:
    """Rank, compare, write."""
    data, folder = map(Path, sys.argv[1:])
    write_json(
        STUDIES / "rank.json",
        {
            "tasks": {task: ranked(task, data, folder / task) for task in TASKS},
            "versions": versions(),
            "git_revision": git_revision(),
        },
    )


def ranked(task: str, data: Path, folder: Path) -> dict[str, Any]:
    """What the sets of one task promise and gave, and how well these agree."""
    learn, examples, sets, methods = TASKS[task]
    settings = {
        "model": "smollm2-135m",
        "learn": data / learn / "train.jsonl",
        "max_learn": examples,
        "max_forget": 24,
        "max_new_tokens": 48,
        "max_length": 512,
        "optimum": "gradient",  # no fine-tuning: gradients at the base model are enough
        "score": "gradient",
        "output_dir": folder,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    sources = [str(data / name / "train.jsonl") for name in sets]
    for stage in ("elicit", "probe", "fisher", "score"):
        command = [sys.executable, "-m", "letgo", stage, *flags, "--forget", *sources]
        subprocess.run(command, check=True)
    promised = {one.name: one for one in rank(folder / "scores.parquet", FRACTION)}
    seeds, found = compared(task, methods, promised)
    return {
        "seeds": seeds,
        "sets": found,
        "spearman": {
            "accuracy": agreement(found, "accuracy", 1),
            "reference_nll": agreement(found, "reference_nll", -1),
        },
    }


def compared(
    task: str, methods: tuple[str, ...], promised: dict[str, Candidate]
) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """The seeds that all sets have, and what every set promised and gave on them."""
    study = read_study(STUDIES / "paper.yaml")
    known = {
        cell: Finished(file["answers"], None)
        for cell, file in read_cells(STUDIES / "paper", study).items()
        if cell.task == task and cell.method in methods and cell.forget in promised
    }
    method = {cell.forget: cell.method for cell in known}
    by_set = [{cell.seed for cell in known if cell.forget == name} for name in method]
    seeds = sorted(set.intersection(*by_set))
    found: dict[str, dict[str, Any]] = {}
    for name, ours in method.items():
        found[name] = {"promise": promised[name].promise, "promise_ci95": promised[name].ci95}
        for figure, title in enumerate(("accuracy", "reference_nll")):
            both = (table(known, task, name, ours, seeds, figure, model) for model in ("lwf", SFT))
            found[name][title] = effect(*both)
    return seeds, found


def agreement(found: dict[str, Any], figure: str, sign: int) -> dict[str, Any]:
    """Spearman's correlation of what sets promise with what they gave.

    Args:
        found: the sets.
        figure: of them.
        sign: 1 where more of it is better, -1 where less.

    Returns:
        `rho`; `p_value` by all permutations; `ci95`, over the errors of both sides, each drawn from
        a normal distribution as wide as its interval.
    """
    promise = np.array([one["promise"] for one in found.values()])
    given = sign * np.array([one[figure]["difference"] for one in found.values()])
    test = permutation_test(
        (promise,), lambda x: spearmanr(x, given).statistic, permutation_type="pairings"
    )
    rng = np.random.default_rng(0)
    drawn = [
        rankdata(
            rng.normal(value, [width(one, of) for one in found.values()], (DRAWS, len(value))),
            axis=1,
        )
        for value, of in (
            (promise, lambda one: one["promise_ci95"]),
            (given, lambda one: one[figure]["ci95"]),
        )
    ]
    left, right = (ranks - ranks.mean(1, keepdims=True) for ranks in drawn)
    rho = (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return {
        "rho": float(test.statistic),
        "p_value": float(test.pvalue),
        "sets": len(found),
        "ci95": [float(end) for end in np.quantile(rho, [0.025, 0.975])],
    }


def width(one: dict[str, Any], of: Any) -> float:
    """Standard deviation of a figure, by its 95 % interval."""
    low, high = of(one)
    return float(high - low) / (2 * NORMAL)


if __name__ == "__main__":
    main()
