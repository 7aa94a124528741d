"""The case `learn_wrong` of outcomes.py: 40 % exchanged sentiment labels, and what an audit does.

Of 240 reviews (sst5, neutral ones left out) 96 have the other label; 80 more are clean, 400 are
the test. Compared on the test set: plain fine-tuning on all rows (SFT), dropping the suspected
rows, and unlearning them (LWF). All three of a seed use the same audit.
"""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from letgo.evaluation.statistics import mean
from letgo.run.audit import read_audit
from letgo.run.folder import read_json

LEARN, WRONG, CLEAN, TEST = 240, 96, 80, 400
OTHER = {"positive": "negative", "negative": "positive"}
SETTINGS = """--forget learn:wrong --learning_rate 5e-5 --num_train_epochs 2
    --per_device_train_batch_size 8 --gradient_checkpointing false --generation_batch_size 64
    --max_new_tokens 8 --quiet"""
UNLEARNED = "--unlearning_loss unlikelihood --unlearning_interval 4 --unlearning_strength 0.3"
DROPPED = "--unlearning_interval 0 --keep none"
GOALS = {
    "auc": "area of the default score at least 0.93",
    "lwf_minus_dropped": "interval of LWF - dropping the same rows above 0",
    "lwf_minus_sft": "interval of LWF - SFT above 0",
}


def reviews(file: Path) -> list[dict[str, str]]:
    """Reviews of sst5 with a sentiment of two."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        label = row["completion"].split()[-1]
        review = row["prompt"].partition("Review: ")[2].removesuffix("\nSentiment:")
        prompt = f"Is this review positive or negative?\nReview: {review}\nSentiment:"
        if label in OTHER:
            found.append({"prompt": prompt, "completion": f" {label}"})
    return list({row["prompt"]: row for row in found}.values())


def write_data(data: Path, folder: Path, seed: int) -> set[str]:
    """Write the learning, clean and test data of a seed; the ids of the wrong rows."""
    draw = random.Random(seed)
    rows = draw.sample(reviews(data / "sst5" / "train.jsonl"), LEARN + CLEAN)
    test = random.Random(0).sample(reviews(data / "sst5" / "test.jsonl"), TEST)
    wrong = set(draw.sample(range(LEARN), WRONG))
    learn = [
        {**row, "completion": f" {OTHER[row['completion'].strip()]}"} if i in wrong else row
        for i, row in enumerate(rows[:LEARN])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("learn", learn), ("clean", rows[LEARN:]), ("test", test)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {f"learn:wrong:{i + 1:06d}" for i in wrong}


def area(folder: Path, wrong: set[str]) -> float:
    """Area under the ROC curve of the audit's score: the chance that a wrong row ranks higher."""
    rows = read_audit(folder)
    is_wrong = np.array([row["id"] in wrong for row in rows])
    ranks = rankdata([row["confidence"] for row in rows])
    count = is_wrong.sum()
    over = ranks[is_wrong].sum() - count * (count + 1) / 2
    return float(over / (count * (len(rows) - count)))


def accuracies(folder: Path) -> dict[str, float]:
    """Accuracy on the test set by model."""
    models = read_json(folder / "metrics.json")["models"]
    return {model: sets["learn"]["accuracy"] for model, sets in models.items()}


def run_seed(data: Path, runs: Path, seed: int) -> dict[str, float]:
    """The figures of one seed."""
    files = runs / f"learn_wrong-{seed}-data"
    wrong = write_data(data, files, seed)
    found: dict[str, float] = {}
    for arm, settings in (("lwf", UNLEARNED), ("dropped", DROPPED)):
        out = runs / f"learn_wrong-{seed}-{arm}"
        words = ["--learn", files / "learn.jsonl", "--learn_validation", files / "clean.jsonl"]
        words += ["--learn_test", files / "test.jsonl", "--output_dir", out, "--seed", seed]
        words += [*SETTINGS.split(), *settings.split(), "--shared", runs / "shared"]
        subprocess.run(["letgo", "run", *map(str, words)], check=True)
        result = accuracies(out)
        found |= {"base": result["base"], "sft": result["sft"], arm: result["lwf"]}
        found["auc"] = area(out, wrong)
    return found


def entries(data: Path, runs: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """The entries of the JSON file of outcomes.py."""
    found = [run_seed(data, runs, seed) for seed in seeds]
    means = {name: mean([run[name] for run in found])[0] for name in found[0]}
    rows = []
    for figure, goal in GOALS.items():
        if figure == "auc":
            value, limits = mean([run["auc"] for run in found])
            met = value >= 0.93
        else:
            other = figure.removeprefix("lwf_minus_")
            value, limits = mean([run["lwf"] - run[other] for run in found])
            met = limits[0] is not None and limits[0] > 0
        rows.append(
            {
                "case": f"learn_wrong/{figure}",
                "figure": "auc" if figure == "auc" else "accuracy",
                **means,
                "difference": value,
                "ci95": limits,
                "seeds": len(seeds),
                "goal": goal,
                "met": bool(met),
            }
        )
    return rows
