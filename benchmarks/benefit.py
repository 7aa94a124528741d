"""Which score ranks first the texts that help? Ascent steps, and the learning loss after each.

usage: python benchmarks/benefit.py --data FOLDER [--tasks sst5 ...] [--choose] [--json FILE]

For each learning task and two points (the base model, and the model after 15 learning steps), each
of 102 self-generated texts of six kinds and each of 16 random groups of 8 of them gets one
normalised ascent step on the scored weights. Its benefit is the drop of the loss of held-out
learning examples. The step is a hundredth ("small") or a tenth ("real", letgo's default) as long as
a learning update; the 8 texts with the highest scores and 8 random ones also take other lengths.
Every score is computed at the base model ("static") and at the point ("re-scored"). The numbers of
each text are saved in benefit/TASK-POINT.json; existing files are not computed again. `--choose`
uses other examples and fewer texts.

Losses are computed in float32: in bfloat16 small steps vanish or are magnified, because many of the
packaged weights lie halfway between two bfloat16 numbers. Without a GPU this takes hours.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from heatmap import draw
from machine import machine
from points import Model, Row, Vectors, dot, gram, interval, learn, mean, scores_of
from scipy.stats import rankdata

from letgo.data.base9 import LEARN, base9, everyday, sums
from letgo.data.records import read_records
from letgo.progress import track
from letgo.run.provenance import git_revision, versions
from letgo.scoring.fisher import Information
from letgo.study.results import rounded

TASKS = ("sst5", "qasc", "dental", "base9")
KINDS = ("sst5", "qasc", "psychol", "dental", "gsm8k", "everyday")
EACH, GROUPS, OF = 17, 16, 8
LEARNING, RATE, HELD_OUT_TOKENS, LONGEST = 320, 5e-5, 3000, 256
# The scores that letgo uses by default: before training, and in re-scoring.
DEFAULT = {"base": "gradient", "early": "cosine with 64 learning examples"}
SQUARES = ("norm", "fisher_norm", "curvature")
SIZES = {"small": 0.01, "real": 0.1}  # of a learning update
DIGITS = 6  # enough to recompute the summary
DOSES = (0.03, 0.1, 0.3, 1.0, 3.0)


def records(task: str, data: Path, part: str) -> list[dict[str, str]]:
    """Prompts and completions of a task, in the order of the file."""
    if task == "base9":
        pairs = random.Random(0).sample([(a, b) for a in range(9, 81) for b in range(9, 81)], 3000)
        return sums(LEARN, pairs[:2500] if part == "train" else pairs[2500:], base9)
    if task == "everyday":
        return everyday()
    read = read_records(str(data / task / f"{part}.jsonl"), "--data", True)
    return [{"prompt": r.prompt, "completion": r.completion or ""} for r in read]


def rows_of(model: Model, data: list[dict[str, str]], seed: int) -> list[Row]:
    """Records in a random order, as training rows, without the long ones."""
    drawn = random.Random(seed).sample(data, min(len(data), 3 * LEARNING))
    rows = [model.row(record["prompt"], record["completion"]) for record in drawn]
    return [row for row in rows if len(row["input_ids"]) <= LONGEST]


def examples(model: Model, task: str, data: Path, choose: bool) -> tuple[list[Row], list[Row]]:
    """Learning examples, and held-out examples with `HELD_OUT_TOKENS` tokens in all."""
    rows = rows_of(model, records(task, data, "train"), 1 if choose else 0)
    # Choices do not use the test split.
    others = rows[LEARNING:] if choose else rows_of(model, records(task, data, "test"), 0)
    held_out: list[Row] = []
    while others and sum(len(row["input_ids"]) for row in held_out) < HELD_OUT_TOKENS:
        held_out.append(others.pop())
    return rows[:LEARNING], held_out


def measure(
    model: Model,
    theta: Vectors,
    units: list[list[Row]],
    held_out: list[Row],
    sizes: dict[str, float],
    fishers: dict[str, dict[str, Information]],
    name: str,
) -> list[dict[str, float]]:
    """The benefit of ascent on each unit (text or group), by step size; for groups also norms."""
    model.put(theta)
    before = mean(model.losses(held_out, False))
    table = []
    for rows in track(units, name, len(units)):
        gradient = model.gradient(rows, False)
        length = dot(gradient, gradient) ** 0.5
        numbers = {}
        if len(rows) > 1:
            numbers = {"norm": length**2}
            for key, fisher in fishers.items():
                weighted = {n: fisher[n].times(g) for n, g in gradient.items()}
                numbers[key] = dot(weighted, gradient)
        for size, step in sizes.items():
            model.move(gradient, step / length)
            numbers[size] = before - mean(model.losses(held_out, False))
            model.put(theta)  # exact; moving back would round
        table.append(numbers)
    return table


def grouped(rows: list[dict[str, Any]], measured: dict[str, float]) -> dict[str, Any]:
    """The numbers of a group; its gradient is the mean of its members' gradients."""
    return {
        "dots": {key: mean([row["dots"][key] for row in rows]) for key in rows[0]["dots"]},
        **{key: mean([row[key] for row in rows]) for key in ("interference", "loss", "tokens")},
        **{key: measured.pop(key) for key in SQUARES},
        "benefit": measured,
    }


def elicit(model: Model, data: Path, choose: bool) -> list[dict[str, Any]]:
    """The base model's answers to prompts of every kind."""
    texts = []
    for kind in KINDS:
        drawn = random.Random(3 if choose else 1).sample(records(kind, data, "train"), EACH)
        answers = model.answer([record["prompt"] for record in drawn], 48)
        texts += [{"kind": kind, "row": row} for row in answers]
    return texts[::2] if choose else texts


def run_task(
    model: Model,
    base: Vectors,
    elicited: list[dict[str, Any]],
    task: str,
    data: Path,
    folder: Path,
    choose: bool,
) -> None:
    """Measure one learning task at both points and write its files."""
    files = {point: folder / f"{task}-{point}.json" for point in DEFAULT}
    model.put(base)
    texts = [text["row"] for text in elicited]
    kinds = [text["kind"] for text in elicited]
    learning, held_out = examples(model, task, data, choose)
    before = model.losses(texts)
    learned = learn(model, learning, RATE, 0)
    after = model.losses(texts)  # the model is at the optimum now
    fisher = model.fisher(learning[:128])
    delta = model.difference(base, learned["optimum"])
    fisher_delta = {n: fisher[n].times(d) for n, d in delta.items()}
    constant = dot(fisher_delta, delta)
    draw = random.Random(2)
    groups = [draw.sample(range(len(texts)), OF) for _ in range(0 if choose else GROUPS)]
    sizes = {name: part * learned["update"] for name, part in SIZES.items()}
    for point, theta in (("base", base), ("early", learned["early"])):
        if files[point].exists():
            continue
        model.put(theta)
        gradients = {n: model.gradient(learning[:n]) for n in (16, 64, 256)}
        directions = {
            "delta": delta,
            "fisher_delta": fisher_delta,
            "oracle": model.gradient(held_out),
            **{f"{n} learning examples": vectors for n, vectors in gradients.items()},
        }
        if point == "early":
            directions["moment"] = learned["moment"]
            directions["moment and 64 learning examples"] = {
                n: m + gradients[64][n] for n, m in learned["moment"].items()
            }
            directions["the way left"] = model.difference(theta, learned["optimum"])
        # bfloat16 saves memory, and cosines need no more digits.
        directions = {k: {n: v.bfloat16() for n, v in vs.items()} for k, vs in directions.items()}
        fishers = {"fisher_norm": fisher, "curvature": model.fisher(learning[:64])}
        rows = model.products(texts, directions, fishers)
        now = model.losses(texts)
        for i, row in enumerate(rows):
            row |= {
                "kind": kinds[i],
                "loss": now[i],
                "tokens": len(texts[i]["input_ids"]),
                "interference": after[i] - before[i],
            }
        units = [[text] for text in texts] + [[texts[i] for i in members] for members in groups]
        table = measure(model, theta, units, held_out, sizes, fishers, f"{task}, {point}")
        values = {
            "constant": constant,
            "gram": gram(directions),
            "rate": RATE,
            "sizes": sizes,
            "update": learned["update"],
            "held_out": len(held_out),
        }
        values["doses"] = dose_curve(model, theta, texts, held_out, rows, values, point)
        for i, benefit in enumerate(table[: len(texts)]):
            rows[i]["benefit"] = benefit
        values["rows"] = rows
        values["groups"] = [
            {**grouped([rows[i] for i in members], benefit), "members": members}
            for members, benefit in zip(groups, table[len(texts) :], strict=True)
        ]
        files[point].write_text(json.dumps(rounded(values, DIGITS)) + "\n")
        print(f"RESULT {files[point].name}", flush=True)


def dose_curve(
    model: Model,
    theta: Vectors,
    texts: list[Row],
    held_out: list[Row],
    rows: list[dict[str, Any]],
    point: dict[str, Any],
    name: str,
) -> dict[str, dict[str, float]]:
    """The benefit of steps of several lengths on the top 8 texts and on 8 random texts."""
    scores = scores_of(rows, point)[DEFAULT[name]]
    ranked = sorted(range(len(rows)), key=lambda i: -scores[i])
    chosen = {"top": ranked[:OF], "random": random.Random(4).sample(range(len(rows)), OF)}
    sizes = {str(dose): dose * point["update"] for dose in DOSES}
    units = [[texts[i] for i in indices] for indices in chosen.values()]
    measured = measure(model, theta, units, held_out, sizes, {}, f"doses, {name}")
    return {
        which: {size: benefit[size] for size in sizes}
        for which, benefit in zip(chosen, measured, strict=True)
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of x and y along texts: (draws, texts) to (draws,)."""
    x, y = (rankdata(values, axis=-1) for values in (x, y))
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def judge(score: list[float], benefit: list[float]) -> dict[str, Any]:
    """Rank correlation with a bootstrap interval, and the share of the top fifth that helps."""
    s, b = np.array(score), np.array(benefit)
    top = np.argsort(-s, kind="stable")[: max(1, len(s) // 5)]
    return {
        "spearman": float(rank_correlation(s, b)),
        "ci95": interval(len(s), lambda draws: rank_correlation(s[draws], b[draws])),
        "helped_share_top20": float((b[top] > 0).mean()),
    }


def chosen(score: list[float], benefit: list[float]) -> dict[str, Any]:
    """What re-scoring would unlearn: the texts of the top half with a score above 0."""
    s, b = np.array(score), np.array(benefit)
    indices = [i for i in np.argsort(-s, kind="stable")[: len(s) // 2] if s[i] > 0]
    return {
        "chosen": len(indices) / len(s),
        "chosen_helped_share": float((b[indices] > 0).mean()) if indices else None,
        "chosen_mean_benefit": float(b[indices].mean()) if indices else None,
        "mean_benefit": float(b.mean()),
    }


def summary(folder: Path) -> dict[str, Any]:
    """Every score, judged in every case."""
    scores: dict[str, dict[str, Any]] = {}
    helped, doses = {}, {}
    own: dict[str, dict[str, Any]] = {}  # the cases of letgo's default score
    for task in TASKS:
        files = {point: folder / f"{task}-{point}.json" for point in DEFAULT}
        loaded = {p: json.loads(file.read_text()) for p, file in files.items() if file.exists()}
        for name, point in loaded.items():
            doses[f"{task}, {name}"] = point["doses"]
            for what in ("rows", "groups") if point["groups"] else ("rows",):
                taken = {"static": scores_of(loaded["base"][what], loaded["base"])}
                if name == "early":
                    taken["re-scored"] = scores_of(point[what], point)
                for size in point["sizes"]:
                    benefit = [row["benefit"][size] for row in point[what]]
                    label = f"{task}, {name}, {size}, {'texts' if what == 'rows' else 'groups'}"
                    helped[label] = {"share": mean([b > 0 for b in benefit]), "mean": mean(benefit)}
                    for when, numbers in taken.items():
                        for score, values in numbers.items():
                            judged = judge(values, benefit)
                            scores.setdefault(score, {})[f"{label}, {when}"] = judged
                    case = f"{label}, {list(taken)[-1]}"
                    oracle = scores["cosine with oracle"][case]["spearman"]
                    own[label] = {
                        **scores[DEFAULT[name]][case],
                        "oracle": oracle,
                        **chosen(numbers[DEFAULT[name]], benefit),
                    }
    texts = {name: case for name, case in own.items() if "texts" in name}  # groups are few
    return {
        "default": {"score": "gradient", **overall(texts)},
        "regimes": regimes(own),
        "cases_of_default": own,
        "scores": scores,
        "helped": helped,
        "doses": doses,
    }


def overall(cases: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Mean and worst figures over cases."""
    correlations = [case["spearman"] for case in cases.values()]
    helped = mean([case["helped_share_top20"] for case in cases.values()])
    return {
        "mean_spearman": mean(correlations),
        "worst_spearman": min(correlations),
        "mean_oracle": mean([case["oracle"] for case in cases.values()]),
        "helped_share_top20": helped,
    }


def regimes(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`overall` by point, by step size, and for texts and groups."""
    kinds = sorted({name.split(", ", 1)[1] for name in cases})
    return {kind: overall({n: c for n, c in cases.items() if n.endswith(kind)}) for kind in kinds}


def main() -> None:
    """Measure the missing cases, write the JSON and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/benefit.json")
    arguments = parser.parse_args()
    file = arguments.json
    if arguments.choose:
        file = file.with_stem(f"{file.stem}_choice")
    folder = file.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        task
        for task in arguments.tasks
        if not all((folder / f"{task}-{point}.json").exists() for point in DEFAULT)
    ]
    if missing:
        model = Model()
        base, elicited = model.copy(), elicit(model, arguments.data, arguments.choose)
        for task in missing:
            run_task(model, base, elicited, task, arguments.data, folder, arguments.choose)
    result = {
        **summary(folder),
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    file.write_text(json.dumps(rounded(result, DIGITS), indent=1) + "\n")
    spearman = {
        name: {case: figures["spearman"] for case, figures in by.items()}
        for name, by in result["scores"].items()
    }
    cases = [case for case in spearman["gradient"] if "texts" in case]
    draw(spearman, cases, 0.0, "Spearman with the measured benefit", file.with_suffix(".png"))


if __name__ == "__main__":
    main()
