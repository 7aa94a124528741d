"""Which score tells texts that conflict with the learning task from texts that do not?

usage: python benchmarks/conflict.py [--seeds 0 1 2] [--conflicts NAME ...] [--json FILE]

Three counterfactual tasks with planted conflicts: addition in base 9 (contradicts the model's
ordinary sums), sentiment with exchanged labels (contradicts its judgements of reviews), and plurals
in -en (contradicts its plurals in -s). For each, a score has to separate the model's own verbose
and direct answers on the subject from its answers to other questions, cut to the same lengths. It
is judged by the area under the ROC curve, at the base model and again after 15 learning steps.
Seeds from 100 on are for making choices.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from benefit import DEFAULT, DIGITS
from conflict_data import CONFLICTS, DIRECT_NEUTRAL, TEXTS, VERBOSE_NEUTRAL, filled, says
from heatmap import draw
from machine import machine
from points import Model, Row, Vectors, dot, gram, learn, mean, scores_of
from scipy.stats import rankdata

from letgo.run.provenance import git_revision, versions
from letgo.study.results import rounded

RATE, MAX_TOKENS = 1e-4, 40


def neutral_texts(model: Model) -> dict[str, list[Row]]:
    """The base model's answers to questions unrelated to the conflicts."""
    styles = {"verbose": VERBOSE_NEUTRAL, "direct": DIRECT_NEUTRAL}
    return {style: model.answer(filled(forms), MAX_TOKENS) for style, forms in styles.items()}


def texts_of(
    model: Model, conflict: dict[str, Any], others: dict[str, list[Row]], draw: random.Random
) -> list[dict[str, Any]]:
    """Conflicting texts of both styles, and as many neutral ones of the same lengths."""
    texts = []
    for style, rows in others.items():
        prompts, neutral = conflict[style], draw.sample(rows, len(rows))
        if style == "direct":  # a direct answer may be longer than all neutral ones
            neutral += draw.sample(others["verbose"], len(others["verbose"]))
        answers = model.answer([prompt for prompt, _ in prompts], MAX_TOKENS)
        conflicting = [
            row
            for row, (_, usual) in zip(answers, prompts, strict=True)
            if says(decoded(model, row), usual)
        ][:TEXTS]
        neutral = matched(neutral, conflicting)
        texts += [{"style": style, "conflict": True, "row": row} for row in conflicting]
        texts += [{"style": style, "conflict": False, "row": row} for row in neutral]
    return texts


def matched(neutral: list[Row], conflicting: list[Row]) -> list[Row]:
    """At least `TEXTS` neutral texts, each cut to the length of a conflicting one."""
    lengths = sorted(map(answer_length, conflicting), reverse=True)
    count = max(TEXTS, len(lengths))
    remaining, rows = list(neutral), []
    for length in sorted([lengths[i % len(lengths)] for i in range(count)], reverse=True):
        # The first one that is long enough, or else the longest.
        longest = max(remaining, key=answer_length)
        row = next((r for r in remaining if answer_length(r) >= length), longest)
        remaining.remove(row)
        cut = max(0, answer_length(row) - length)
        rows.append({key: ids[: len(ids) - cut] for key, ids in row.items()})
    return rows


def answer_length(row: Row) -> int:
    """Number of tokens of the answer."""
    return len(row["labels"]) - row["labels"].count(-100)


def decoded(model: Model, row: Row) -> str:
    """The answer as text."""
    return model.tokenizer.decode(row["input_ids"][-answer_length(row) :])


def run(
    model: Model, base: Vectors, others: dict[str, list[Row]], name: str, seed: int, file: Path
) -> None:
    """Measure one conflict with one seed and write the numbers of every text at both points."""
    model.put(base)
    draw = random.Random(seed)
    conflict = CONFLICTS[name](draw)
    texts = texts_of(model, conflict, others, draw)
    rows = [text["row"] for text in texts]
    learning = [model.row(prompt, completion) for prompt, completion in conflict["learn"]]
    before = model.losses(rows)
    model.model.requires_grad_(True)
    learned = learn(model, learning, RATE, seed)
    after = model.losses(rows)
    fisher = model.fisher(learning[:128])
    delta = model.difference(base, learned["optimum"])
    fisher_delta = {n: fisher[n].times(d) for n, d in delta.items()}
    constant = dot(fisher_delta, delta)
    points: dict[str, Any] = {}
    for point, theta in (("base", base), ("early", learned["early"])):
        model.put(theta)
        directions = {
            "delta": delta,
            "fisher_delta": fisher_delta,
            "64 learning examples": model.gradient(learning[:64]),
        }
        if point == "early":
            directions["moment"] = learned["moment"]
        directions = {k: {n: v.bfloat16() for n, v in vs.items()} for k, vs in directions.items()}
        fishers = {"fisher_norm": fisher, "curvature": model.fisher(learning[:64])}
        numbers = model.products(rows, directions, fishers)
        now = model.losses(rows)
        for i, number in enumerate(numbers):
            number |= {
                "loss": now[i],
                "tokens": answer_length(rows[i]),
                "interference": after[i] - before[i],
            }
        points[point] = {
            "constant": constant,
            "gram": gram(directions),
            "rate": RATE,
            "rows": numbers,
        }
    for text in texts:
        text["answer"] = decoded(model, text.pop("row"))
    file.write_text(json.dumps(rounded({"texts": texts, "points": points}, DIGITS)) + "\n")
    print(
        f"RESULT {file.name}: {sum(text['conflict'] for text in texts)} of {len(texts)} conflict",
        flush=True,
    )


def area(scores: np.ndarray, conflict: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the chance that a conflicting text ranks above a neutral one.

    Args:
        scores: (draws, texts).
        conflict: (draws, texts) bool.

    Returns:
        (draws,), NaN where all texts are conflicting or all are neutral.
    """
    positive = conflict.sum(-1)
    negative = conflict.shape[-1] - positive
    ranks = (rankdata(scores, axis=-1) * conflict).sum(-1) - positive * (positive + 1) / 2
    with np.errstate(invalid="ignore"):
        return ranks / (positive * negative)


def summary(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Every score, judged on every conflict by the mean area over seeds."""
    scores: dict[str, dict[str, Any]] = {}
    own: dict[str, float] = {}
    for name in CONFLICTS:
        runs = [
            json.loads(f.read_text())
            for f in (folder / f"{name}-{s}.json" for s in seeds)
            if f.exists()
        ]
        for style in ("verbose", "direct"):
            for point in runs[0]["points"] if runs else ():
                cases = []  # (scores, truth) of each seed
                for one in runs:
                    at = one["points"][point]
                    indices = [i for i, t in enumerate(one["texts"]) if t["style"] == style]
                    truth = np.array([one["texts"][i]["conflict"] for i in indices])
                    numbers = {
                        n: np.array(v)[indices] for n, v in scores_of(at["rows"], at).items()
                    }
                    cases.append((numbers, truth))
                label = f"{name}, {style}, {'static' if point == 'base' else 're-scored'}"
                for score in cases[0][0]:
                    scores.setdefault(score, {})[label] = judged(
                        [(numbers[score], truth) for numbers, truth in cases]
                    )
                own[label] = scores[DEFAULT[point]][label]["auc"]
    return {
        "default": {
            "score": "gradient",
            "mean_auc": mean(list(own.values())),
            "worst_auc": min(own.values()),
        },
        "cases_of_default": own,
        "scores": scores,
    }


def judged(cases: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Mean area over seeds, with a bootstrap interval over the texts of each seed."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(truth), (1000, len(truth))) for _, truth in cases]
    means = np.mean([area(s[d], t[d]) for (s, t), d in zip(cases, drawn, strict=True)], 0)
    low, high = np.nanquantile(means, [0.025, 0.975])
    seeds = [float(area(s, t)) for s, t in cases]
    return {"auc": mean(seeds), "ci95": [float(low), float(high)], "seeds": seeds}


def main() -> None:
    """Measure the missing cases, write the JSON and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--conflicts", nargs="+", default=list(CONFLICTS))
    results = Path(__file__).parent / "results/conflict.json"
    parser.add_argument("--json", type=Path, default=results)
    arguments = parser.parse_args()
    folder = arguments.json.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        (name, seed): folder / f"{name}-{seed}.json"
        for seed in arguments.seeds
        for name in arguments.conflicts
    }
    missing = {case: file for case, file in files.items() if not file.exists()}
    if missing:
        model = Model()
        base, others = model.copy(), neutral_texts(model)
        for (name, seed), file in missing.items():
            run(model, base, others, name, seed, file)
    result = {
        **summary(folder, arguments.seeds),
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    arguments.json.write_text(json.dumps(rounded(result, DIGITS), indent=1) + "\n")
    areas = {
        name: {case: figures["auc"] for case, figures in by.items()}
        for name, by in result["scores"].items()
    }
    draw(
        areas,
        list(areas["gradient"]),
        0.5,
        "area under the ROC curve",
        arguments.json.with_suffix(".png"),
    )


if __name__ == "__main__":
    main()
