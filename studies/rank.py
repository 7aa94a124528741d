"""How well `letgo rank` foretells which forgetting set is worth it.

usage: python studies/rank.py DATA FOLDER   DATA: as studies/split.py writes it

Ranks the forgetting sets of the low-data task of paper.yaml before any training, and compares what
each promises with what the runs in paper/results.json found: the difference to plain fine-tuning in
accuracy, and in the NLL of right answers. Writes studies/rank.json.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, permutation_test, rankdata, spearmanr

from letgo import ranking
from letgo.config import git_revision, versions
from letgo.stages import write_json

TASK, METHODS, SETS = "base9_64", ("lwf", "lwf_sets"), ("base10", "sst5", "qasc", "dental",
                                                        "psychol", "gsm8k")  # fmt: skip
FRACTION, DRAWS = 0.5, 9999
STUDIES = Path(__file__).parent
PART_OF_NORMAL = 2 * float(norm.ppf(0.975))  # a 95 % interval's width, in standard deviations


def main() -> None:
    """Rank, compare, write."""
    data, folder = map(Path, sys.argv[1:])
    sources = [str(data / name / "train.jsonl") for name in SETS]
    command = [sys.executable, "-m", "letgo", "rank", "--model", "smollm2-135m",
               "--learn", str(data / "base9" / "train.jsonl"), "--max_learn", "64",
               "--candidates", *sources, "--max_forget", "24", "--max_new_tokens", "48",
               "--output_dir", str(folder)]  # fmt: skip
    subprocess.run(command, check=True)
    names = dict(zip(SETS, SETS, strict=True))
    promised = {names[Path(one.name).name]: one
                for one in ranking.rank(folder / "scores.parquet", FRACTION)}  # fmt: skip
    results = json.loads((STUDIES / "paper" / "results.json").read_text())
    effects = {row["forget"]: row for row in results["effects"]
               if row["task"] == TASK and row["method"] in METHODS}  # fmt: skip
    known = [name for name in promised if name in effects]
    found: dict[str, Any] = {
        name: {"promise": promised[name].promise, "promise_ci95": promised[name].ci95,
               **{figure: effects[name][figure] for figure in ("accuracy", "reference_nll")}}
        for name in known
    }  # fmt: skip
    write_json(STUDIES / "rank.json", {
        "task": TASK, "sets": found,
        "spearman": {"accuracy": agreement(found, "accuracy", 1),
                     "reference_nll": agreement(found, "reference_nll", -1)},
        "versions": versions(), "git_revision": git_revision(),
    })  # fmt: skip


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
        rankdata(rng.normal(value, [width(one, of) for one in found.values()], (DRAWS, len(value))),
                 axis=1)
        for value, of in ((promise, lambda one: one["promise_ci95"]),
                          (given, lambda one: one[figure]["ci95"]))
    ]  # fmt: skip
    left, right = (ranks - ranks.mean(1, keepdims=True) for ranks in drawn)
    rho = (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return {"rho": float(test.statistic), "p_value": float(test.pvalue), "sets": len(found),
            "ci95": [float(end) for end in np.quantile(rho, [0.025, 0.975])]}  # fmt: skip


def width(one: dict[str, Any], of: Any) -> float:
    """Standard deviation of a figure, by its 95 % interval."""
    low, high = of(one)
    return float(high - low) / PART_OF_NORMAL


if __name__ == "__main__":
    main()
