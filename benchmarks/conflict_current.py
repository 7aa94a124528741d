"""The case `conflict` of outcomes.py: does `self_knowledge="current"` find the planted conflicts?

The tasks and prompts are those of conflict.py. After 15 learning steps the model answers the
prompts of both kinds again. Old knowledge are the answers that still say what contradicts the
learning task. The score that `current` uses, the loss of an answer now minus that under the base
model, has to separate them from the answers to other questions, cut to the same lengths.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from conflict import MAX_TOKENS, RATE, area, decoded, matched
from conflict_data import CONFLICTS, DIRECT_NEUTRAL, TEXTS, VERBOSE_NEUTRAL, filled, says
from points import EARLY, Model, Vectors, learn, mean

from letgo.evaluation.statistics import mean as with_interval

NEUTRAL = {"verbose": VERBOSE_NEUTRAL, "direct": DIRECT_NEUTRAL}
FEWEST = 5  # old answers of a style; with fewer an area says nothing


def measure(model: Model, base: Vectors, name: str, seed: int) -> dict[str, Any]:
    """By style the area under the ROC curve, and how many answers are old."""
    model.put(base)
    draw = random.Random(seed)
    conflict = CONFLICTS[name](draw)
    learning = [model.row(prompt, completion) for prompt, completion in conflict["learn"]]
    model.model.requires_grad_(True)
    early = learn(model, learning, RATE, seed, steps=EARLY)["early"]
    found: dict[str, Any] = {}
    for style, forms in NEUTRAL.items():
        model.put(early)
        answers = model.answer([prompt for prompt, _ in conflict[style]], MAX_TOKENS)
        old = [
            row
            for row, (_, usual) in zip(answers, conflict[style], strict=True)
            if says(decoded(model, row), usual)
        ][:TEXTS]
        if len(old) < FEWEST:
            found[style] = {"old": len(old), "auc": None}
            continue
        # A direct answer may be longer than all neutral ones.
        others = model.answer(filled(forms) + filled(VERBOSE_NEUTRAL), MAX_TOKENS)
        rows = [*old, *matched(others, old)]
        now = model.losses(rows)
        model.put(base)
        scores = np.array(now) - np.array(model.losses(rows))
        truth = np.arange(len(rows)) < len(old)
        found[style] = {"old": len(old), "auc": float(area(scores, truth))}
    return found


def entries(runs: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """The entries of the JSON file of outcomes.py; measured cases are kept in `runs`."""
    model, base = None, None
    areas: list[list[float]] = []  # by case, of all seeds
    runs.mkdir(parents=True, exist_ok=True)
    by_seed: dict[int, list[float]] = {}
    for name in CONFLICTS:
        found = []
        for seed in seeds:
            file = runs / f"conflict-{name.replace(' ', '_')}-{seed}.json"
            if not file.exists():
                model = model or Model()
                base = base or model.copy()
                file.write_text(json.dumps(measure(model, base, name, seed)))
            found.append(json.loads(file.read_text()))
        for style in NEUTRAL:
            values = [one[style]["auc"] for one in found if one[style]["auc"] is not None]
            if values:
                areas.append(values)
            for seed, one in zip(seeds, found, strict=True):
                if one[style]["auc"] is not None:
                    by_seed.setdefault(seed, []).append(one[style]["auc"])
    cases = [mean(values) for values in areas]
    static = json.loads((Path(__file__).parent / "results/conflict.json").read_text())["default"]
    _, interval = with_interval([mean(values) for values in by_seed.values()])
    return [
        {
            "case": f"conflict/{figure}",
            "figure": "auc",
            "base": static[f"{figure}_auc"],
            "sft": None,
            "lwf": value,
            "difference": value - static[f"{figure}_auc"],
            "ci95": interval,  # of the mean area, over the seeds
            "seeds": len(seeds),
            "goal": f"area at least {goal}; base: the default score, of static texts",
            "met": value >= goal,
        }
        for figure, value, goal in (("mean", mean(cases), 0.90), ("worst", min(cases), 0.75))
    ]
