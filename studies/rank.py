"""How well `letgo rank` foretells which forgetting set is worth it.

usage: python studies/rank.py DATA FOLDER   DATA: as studies/split.py writes it

Ranks the forgetting sets of two tasks of paper.yaml before any training, and compares what each
promises with what the runs in paper/ found: the difference to plain fine-tuning in accuracy, and in
the NLL of right answers, on the seeds that all sets have. Writes studies/rank.json.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import permutation_test, rankdata, spearmanr

from letgo import ranking
from letgo.config import git_revision, versions
from letgo.stages import write_json
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
    sources = [str(data / name / "train.jsonl") for name in sets]
    command = [
        sys.executable,
        "-m",
        "letgo",
        "rank",
        "--model",
        "smollm2-135m",
        "--learn",
        str(data / learn / "train.jsonl"),
        "--max_learn",
        str(examples),
        "--candidates",
        *sources,
        "--max_forget",
        "24",
        "--max_new_tokens",
        "48",
        "--max_length",
        "512",
        "--output_dir",
        str(folder),
    ]
    subprocess.run(command, check=True)
    promised = {one.name: one for one in ranking.rank(folder / "scores.parquet", FRACTION)}
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
    task: str, methods: tuple[str, ...], promised: dict[str, ranking.Candidate]
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
