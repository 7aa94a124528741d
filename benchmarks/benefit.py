"""Which score ranks first what truly helps? Ascent steps, and the learning loss after each.

usage: python benchmarks/benefit.py --data FOLDER [--tasks sst5 ...] [--choose] [--json FILE]

For each learning task, and from two points (the base model, and after 15 learning steps), every one
of 102 self-generated texts of six kinds, and every one of 16 random groups of 8 of them, gets one
normalised ascent step on the scored weights; its benefit is how far the loss of held-out learning
examples falls. A step is a hundredth as long as a learning update (small) or a tenth (real: letgo's
default dose); the 8 texts of highest score, and 8 others, take steps of more lengths. Every score
is taken at the base model (static) and anew at the point (re-scored). Numbers per text are kept in
benefit/TASK-POINT.json; what is there is not done again. `--choose` does the same with other
examples and fewer texts.

Losses are computed in float32: bfloat16 swallows small steps or magnifies them (of the packaged
weights many lie right between two of its numbers). Without a GPU that takes hours.
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

from letgo.data.demo import LEARN, TOPICS, base9, sums
from letgo.data.records import read_records
from letgo.progress import track
from letgo.run.provenance import git_revision, versions
from letgo.scoring.fisher import Information
from letgo.study.results import rounded

TASKS = ("sst5", "qasc", "dental", "base9")
KINDS = ("sst5", "qasc", "psychol", "dental", "gsm8k", "everyday")
EACH, GROUPS, OF = 17, 16, 8
LEARNING, RATE, HELD_OUT_TOKENS, LONGEST = 320, 5e-5, 3000, 256
# What letgo ranks by: the learning gradient, before training and anew while it learns.
DEFAULT = {"base": "gradient", "early": "cosine with 64 learning examples"}
SQUARES = ("norm", "fisher_norm", "curvature")
SIZES = {"small": 0.01, "real": 0.1}  # of a learning update
DIGITS = 6  # enough to do the figures again
DOSES = (0.03, 0.1, 0.3, 1.0, 3.0)


def records(task: str, data: Path, part: str) -> list[dict[str, str]]:
    """Prompts and completions of a task, in their order."""
    if task == "base9":
        pairs = random.Random(0).sample([(a, b) for a in range(9, 81) for b in range(9, 81)], 3000)
        return sums(LEARN, pairs[:2500] if part == "train" else pairs[2500:], base9)
    if task == "everyday":
        return [{"prompt": form.format(x)} for form, things in TOPICS.items() for x in things]
    found = read_records(str(data / task / f"{part}.jsonl"), "--data", True)
    return [{"prompt": r.prompt, "completion": r.completion or ""} for r in found]


def rows_of(model: Model, found: list[dict[str, str]], seed: int) -> list[Row]:
    """Records in a random order, as rows; long ones left out."""
    drawn = random.Random(seed).sample(found, min(len(found), 3 * LEARNING))
    rows = [model.row(record["prompt"], record["completion"]) for record in drawn]
    return [row for row in rows if len(row["input_ids"]) <= LONGEST]


def examples(model: Model, task: str, data: Path, choose: bool) -> tuple[list[Row], list[Row]]:
    """Learning examples, and held-out ones of about `HELD_OUT_TOKENS` tokens together."""
    rows = rows_of(model, records(task, data, "train"), 1 if choose else 0)
    # Where something is chosen, the test split is not looked at.
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
    """The benefit of a step of every size along a unit's gradient; of groups also its norms."""
    model.put(theta)
    before = mean(model.losses(held_out, False))
    table = []
    for rows in track(units, name, len(units)):
        gradient = model.gradient(rows, False)
        length = dot(gradient, gradient) ** 0.5
        found = {}
        if len(rows) > 1:
            found = {"norm": length**2}
            for key, fisher in fishers.items():
                weighted = {n: fisher[n].times(g) for n, g in gradient.items()}
                found[key] = dot(weighted, gradient)
        for size, step in sizes.items():
            model.move(gradient, step / length)
            found[size] = before - mean(model.losses(held_out, False))
            model.put(theta)  # exactly, which moving back would not be
        table.append(found)
    return table


def grouped(rows: list[dict[str, Any]], measured: dict[str, float]) -> dict[str, Any]:
    """A group's numbers; its gradient is the mean of its members'."""
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
        asked = random.Random(3 if choose else 1).sample(records(kind, data, "train"), EACH)
        answers = model.answer([record["prompt"] for record in asked], 48)
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
    """Both points of one learning task."""
    files = {point: folder / f"{task}-{point}.json" for point in DEFAULT}
    model.put(base)
    texts = [text["row"] for text in elicited]
    kinds = [text["kind"] for text in elicited]
    learning, held_out = examples(model, task, data, choose)
    before = model.losses(texts)
    found = learn(model, learning, RATE, 0)
    after = model.losses(texts)  # now at the optimum
    fisher = model.fisher(learning[:128])
    delta = model.way(base, found["optimum"])
    fisher_delta = {n: fisher[n].times(d) for n, d in delta.items()}
    constant = dot(fisher_delta, delta)
    draw = random.Random(2)
    groups = [draw.sample(range(len(texts)), OF) for _ in range(0 if choose else GROUPS)]
    sizes = {name: part * found["update"] for name, part in SIZES.items()}
    for point, theta in (("base", base), ("early", found["early"])):
        if files[point].exists():
            continue
        model.put(theta)
        learned = {n: model.gradient(learning[:n]) for n in (16, 64, 256)}
        directions = {
            "delta": delta,
            "fisher_delta": fisher_delta,
            "oracle": model.gradient(held_out),
            **{f"{n} learning examples": vectors for n, vectors in learned.items()},
        }
        if point == "early":
            directions["moment"] = found["moment"]
            directions["moment and 64 learning examples"] = {
                n: m + learned[64][n] for n, m in found["moment"].items()
            }
            directions["the way left"] = model.way(theta, found["optimum"])
        # bfloat16: cosines need no more digits, and there are many directions.
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
        said = {
            "constant": constant,
            "gram": gram(directions),
            "rate": RATE,
            "sizes": sizes,
            "update": found["update"],
            "held_out": len(held_out),
        }
        said["doses"] = dose_curve(model, theta, texts, held_out, rows, said, point)
        for i, benefit in enumerate(table[: len(texts)]):
            rows[i]["benefit"] = benefit
        said["rows"] = rows
        said["groups"] = [
            {**grouped([rows[i] for i in members], benefit), "members": members}
            for members, benefit in zip(groups, table[len(texts) :], strict=True)
        ]
        files[point].write_text(json.dumps(rounded(said, DIGITS)) + "\n")
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
    """Benefit of steps of several lengths on the top 8 texts, and on 8 drawn at random."""
    scores = scores_of(rows, point)[DEFAULT[name]]
    ranked = sorted(range(len(rows)), key=lambda i: -scores[i])
    chosen = {"top": ranked[:OF], "random": random.Random(4).sample(range(len(rows)), OF)}
    sizes = {str(dose): dose * point["update"] for dose in DOSES}
    units = [[texts[i] for i in places] for places in chosen.values()]
    found = measure(model, theta, units, held_out, sizes, {}, f"doses, {name}")
    return {
        which: {size: benefit[size] for size in sizes}
        for which, benefit in zip(chosen, found, strict=True)
    }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's, of each row of x with the same row of y: (draws, texts) to (draws,)."""
    x, y = (rankdata(values, axis=-1) for values in (x, y))
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def judge(score: list[float], benefit: list[float]) -> dict[str, Any]:
    """Rank correlation with a bootstrap interval, and how many of the top fifth help."""
    s, b = np.array(score), np.array(benefit)
    top = np.argsort(-s, kind="stable")[: max(1, len(s) // 5)]
    return {
        "spearman": float(rank_correlation(s, b)),
        "ci95": interval(len(s), lambda draws: rank_correlation(s[draws], b[draws])),
        "helped_share_top20": float((b[top] > 0).mean()),
    }


def chosen(score: list[float], benefit: list[float]) -> dict[str, Any]:
    """What re-scoring would unlearn: of the better half the texts with a score above 0."""
    s, b = np.array(score), np.array(benefit)
    places = [i for i in np.argsort(-s, kind="stable")[: len(s) // 2] if s[i] > 0]
    return {
        "chosen": len(places) / len(s),
        "chosen_helped_share": float((b[places] > 0).mean()) if places else None,
        "chosen_mean_benefit": float(b[places].mean()) if places else None,
        "mean_benefit": float(b.mean()),
    }


def summary(folder: Path) -> dict[str, Any]:
    """Every score judged in every case."""
    scores: dict[str, dict[str, Any]] = {}
    helped, doses = {}, {}
    own: dict[str, dict[str, Any]] = {}  # cases in the way letgo uses its default score
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
    """Mean and worst over cases."""
    found = [case["spearman"] for case in cases.values()]
    helped = mean([case["helped_share_top20"] for case in cases.values()])
    return {
        "mean_spearman": mean(found),
        "worst_spearman": min(found),
        "mean_oracle": mean([case["oracle"] for case in cases.values()]),
        "helped_share_top20": helped,
    }


def regimes(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The same by point, step size and whether steps are on texts or groups."""
    kinds = sorted({name.split(", ", 1)[1] for name in cases})
    return {kind: overall({n: c for n, c in cases.items() if n.endswith(kind)}) for kind in kinds}


def main() -> None:
    """Measure what is missing, write the JSON and draw the picture."""
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
    found = {
        **summary(folder),
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    file.write_text(json.dumps(rounded(found, DIGITS), indent=1) + "\n")
    spearman = {
        name: {case: figures["spearman"] for case, figures in by.items()}
        for name, by in found["scores"].items()
    }
    cases = [case for case in spearman["gradient"] if "texts" in case]
    draw(spearman, cases, 0.0, "Spearman with the measured benefit", file.with_suffix(".png"))


if __name__ == "__main__":
    main()
