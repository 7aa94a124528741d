"""Which score ranks first what truly helps? Ascent steps, and the learning loss after each.

usage: python benchmarks/benefit.py --data FOLDER [--tasks sst5 ...] [--quick] [--json FILE]

For each learning task, and from two points (the base model, and after 15 learning steps), every one
of 102 self-generated texts of six kinds, and every one of 24 random groups of 8 of them, gets one
normalised ascent step on the scored weights; its benefit is how far the loss of held-out learning
examples falls. Every score is taken at the base model (static) and anew at the point (re-scored).
Per-text numbers are kept in benefit/TASK-POINT.json; what is there is not done again.
"""

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from scipy.stats import spearmanr
from torch import Tensor

from letgo.confidence.estimate import estimate
from letgo.confidence.gradients import scored_weights, values
from letgo.confidence.scores import SCORES, Task
from letgo.config import git_revision, versions
from letgo.data import batches_by_tokens, example_ids, prompt_ids, training_row
from letgo.demo import LEARN, TOPICS, base9, sums
from letgo.inference import autocast, example_losses, generate, pad_rows
from letgo.models import bf16_is_fast, load_model, load_tokenizer, resolve
from letgo.progress import track
from letgo.records import read_records

TASKS = ("sst5", "qasc", "psychol", "base9")
KINDS = ("sst5", "qasc", "psychol", "dental", "gsm8k", "everyday")
EACH, GROUPS, OF = 17, 24, 8
LEARNING, EARLY, STEPS, BATCH, RATE = 320, 15, 40, 8, 5e-5
HELD_OUT_TOKENS, MOST_TOKENS = 1500, 256
BF16 = bf16_is_fast()
Vectors = dict[str, Tensor]


def records(task: str, data: Path, part: str) -> list[dict[str, str]]:
    """Prompts and completions of a task, in their order."""
    if task == "base9":
        pairs = random.Random(0).sample([(a, b) for a in range(9, 81) for b in range(9, 81)], 800)
        return sums(LEARN, pairs[:400] if part == "train" else pairs[400:], base9)
    if task == "everyday":
        return [{"prompt": form.format(x)} for form, things in TOPICS.items() for x in things]
    found = read_records(str(data / task / f"{part}.jsonl"), "--data", True)
    return [{"prompt": r.prompt, "completion": r.completion or ""} for r in found]


class Model:
    """The model at a point, its scored weights, and what can be done with them."""

    def __init__(self) -> None:
        path = resolve("smollm2-135m")
        self.tokenizer, self.model = load_tokenizer(path), load_model(path).eval()
        self.weights = scored_weights(self.model)
        self.matrices = dict(values(self.weights))

    def copy(self) -> Vectors:
        """The weights now."""
        return {name: w.clone() for name, w in self.matrices.items()}

    @torch.no_grad()
    def put(self, theta: Vectors) -> None:
        """Set the weights."""
        for name, w in self.matrices.items():
            w.copy_(theta[name])

    @torch.no_grad()
    def move(self, along: Vectors, by: float) -> None:
        """Add `by * along` to the weights."""
        for name, w in self.matrices.items():
            w.add_(along[name], alpha=by)

    def batches(self, rows: list[Any]) -> list[list[int]]:
        """Indices of the rows, in batches."""
        return batches_by_tokens([len(row["input_ids"]) for row in rows], 1024)

    @torch.no_grad()
    def losses(self, rows: list[Any]) -> list[float]:
        """Mean NLL of every row."""
        found = [0.0] * len(rows)
        for places in self.batches(rows):
            with autocast(BF16):
                batch = pad_rows([rows[i] for i in places], self.tokenizer.pad_token_id)
                for i, loss in zip(places, example_losses(self.model, batch).tolist(), strict=True):
                    found[i] = loss
        return found

    def gradient(self, rows: list[Any]) -> Vectors:
        """Of the mean of the examples' mean NLL."""
        parameters = [layer.weight for layer in self.weights.layers.values()]
        total = [torch.zeros_like(p) for p in parameters]
        for places in self.batches(rows):
            with autocast(BF16):
                batch = pad_rows([rows[i] for i in places], self.tokenizer.pad_token_id)
                loss = example_losses(self.model, batch).sum() / len(rows)
            for sum_, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                sum_ += part
        return dict(zip(self.weights.layers, total, strict=True))

    def row(self, record: dict[str, str]) -> dict[str, list[int]]:
        """Token ids and labels of a record."""
        return training_row(*example_ids(self.tokenizer, record["prompt"], record["completion"]))


def dot(x: Vectors, y: Vectors) -> float:
    """Inner product over all matrices."""
    return sum(float(torch.dot(x[n].flatten().float(), y[n].flatten().float())) for n in x)


def elicit(model: Model, data: Path) -> list[dict[str, Any]]:
    """The base model's answers to prompts of every kind."""
    texts: list[dict[str, Any]] = []
    for kind in KINDS:
        asked = random.Random(1).sample(records(kind, data, "train"), EACH)
        ids = [prompt_ids(model.tokenizer, r["prompt"])[-MOST_TOKENS:] for r in asked]
        said = generate(model.model, model.tokenizer, ids, 48, BF16)
        texts += [{"kind": kind, "row": training_row(i, a)} for i, a in zip(ids, said, strict=True)]
    return texts


def learn(model: Model, rows: list[Any]) -> dict[str, Any]:
    """Plain fine-tuning: the weights early and at the end, AdamW's first moment and step length."""
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    found: dict[str, Any] = {}
    order = random.Random(0).sample(range(len(rows)), len(rows))
    for step in track(list(range(STEPS)), "learning", STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        batch = [rows[order[i % len(rows)]] for i in range(step * BATCH, (step + 1) * BATCH)]
        before = model.copy() if step == EARLY - 1 else None
        with autocast(BF16):
            loss = example_losses(model.model, pad_rows(batch, model.tokenizer.pad_token_id)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if before is not None:
            found["early"] = model.copy()
            update = {n: found["early"][n] - before[n] for n in before}
            found["update"] = dot(update, update) ** 0.5
            found["moment"] = {n: optimizer.state[layer.weight]["exp_avg"].clone()
                               for n, layer in model.weights.layers.items()}  # fmt: skip
    return {**found, "optimum": model.copy()}


def measure(
    model: Model, theta: Vectors, texts: list[Any], held_out: list[Any],
    directions: dict[str, Vectors], fisher: Any, sizes: dict[str, float], name: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Benefit of a step on every text or group, and the numbers its scores are made of."""
    model.put(theta)
    before = statistics.mean(model.losses(held_out))
    table = []
    for text in track(texts, name, len(texts)):
        gradient = model.gradient(text["rows"])
        norm = dot(gradient, gradient)
        row = {"kind": text["kind"], "norm": norm,
               "loss": statistics.mean(model.losses(text["rows"])),
               "tokens": statistics.mean(len(r["input_ids"]) for r in text["rows"]),
               "fisher_norm": dot({n: fisher[n].times(g) for n, g in gradient.items()}, gradient),
               "dots": {key: dot(v, gradient) for key, v in directions.items()}}  # fmt: skip
        for size, length in sizes.items():
            model.move(gradient, length / norm**0.5)
            row[size] = before - statistics.mean(model.losses(held_out))
            model.put(theta)
        table.append(row)
    return table


def run_task(task: str, data: Path, folder: Path, quick: bool) -> None:
    """Both points of one learning task."""
    files = {point: folder / f"{task}-{point}.json" for point in ("base", "early")}
    if all(file.exists() for file in files.values()):
        return
    model = Model()
    base = model.copy()
    texts = elicit(model, data)
    own = records(task, data, "train")
    rows = [model.row(r) for r in random.Random(0).sample(own, LEARNING)]
    rows = [row for row in rows if len(row["input_ids"]) <= MOST_TOKENS]
    held_out: list[Any] = []
    for record in random.Random(0).sample(records(task, data, "test"), 200):
        row = model.row(record)
        if sum(len(r["input_ids"]) for r in held_out) + len(row["input_ids"]) < HELD_OUT_TOKENS:
            held_out.append(row)
    before = model.losses([t["row"] for t in texts])
    found = learn(model, rows)
    after = model.losses([t["row"] for t in texts])  # now at the optimum
    sample = rows[:128]
    fisher = {
        kind: estimate(kind, model.model, model.weights, sample, model.batches(sample),
                       model.tokenizer.pad_token_id, BF16)[0]
        for kind in ("factored",)
    }["factored"]  # fmt: skip
    delta = {n: base[n] - w for n, w in found["optimum"].items()}
    constant = dot({n: fisher[n].times(d) for n, d in delta.items()}, delta)
    chosen = random.Random(2)
    singles = [{"kind": text["kind"], "rows": [text["row"]], "members": [i]}
               for i, text in enumerate(texts)]  # fmt: skip
    members = [chosen.sample(range(len(texts)), OF) for _ in range(GROUPS)]
    groups = [{"kind": "group", "rows": [texts[i]["row"] for i in some], "members": some}
              for some in members]  # fmt: skip
    if quick:
        singles, groups = singles[::12], groups[:2]
    sizes = {"small": 0.02 * dot(delta, delta) ** 0.5, "real": 0.1 * found["update"],
             "update": found["update"]}  # fmt: skip
    for point, theta in (("base", base), ("early", found["early"])):
        if files[point].exists():
            continue
        model.put(theta)
        directions = {
            "delta": delta, "fisher_delta": {n: fisher[n].times(d) for n, d in delta.items()},
            "learn_16": model.gradient(rows[:16]), "learn_64": model.gradient(rows[:64]),
            "learn_256": model.gradient(rows[:256]), "oracle": model.gradient(held_out),
        }  # fmt: skip
        if point == "early":
            directions["moment"] = found["moment"]
        # bfloat16: the cosines need no more digits, and there are seven of them.
        directions = {k: {n: v.bfloat16() for n, v in vs.items()} for k, vs in directions.items()}
        lengths = {key: dot(v, v) for key, v in directions.items()}
        table = measure(model, theta, singles + groups, held_out, directions, fisher, sizes,
                        f"{task}, {point}")  # fmt: skip
        for text, row in zip(singles + groups, table, strict=True):
            row["members"] = text["members"]
            row["interference"] = statistics.mean(after[i] - before[i] for i in text["members"])
        files[point].write_text(json.dumps({
            "constant": constant, "lengths": lengths, "sizes": sizes, "rate": RATE, "rows": table,
            "held_out": len(held_out),
        }) + "\n")  # fmt: skip
        print(f"RESULT {files[point].name}", flush=True)


def scores_of(point: dict[str, Any]) -> dict[str, list[float]]:
    """Every score of every text or group, from its numbers at a point."""
    constant, lengths = point["constant"], point["lengths"]
    found: dict[str, list[float]] = {}
    for row in point["rows"]:
        text = {"linear": row["dots"]["fisher_delta"], "quadratic": row["fisher_norm"],
                "inner": row["dots"]["delta"], "norm": row["norm"],
                "loss_base": 0.0, "loss_probe": row["interference"]}  # fmt: skip
        own = {name: score(text, Task(constant, lengths["delta"], None))
               for name, score in SCORES.items() if name != "fisher_distance"}  # fmt: skip
        for name, alpha in (("auto", None), ("rate", point["rate"]), ("0.01", 0.01)):
            task = Task(constant, lengths["delta"], alpha)
            own[f"fisher_distance, alpha {name}"] = SCORES["fisher_distance"](text, task)
        for name in ("learn_16", "learn_64", "learn_256", "moment", "oracle"):
            if name in row["dots"]:
                cosine = row["dots"][name] / (lengths[name] * row["norm"]) ** 0.5
                own[f"cosine with {name}"] = -cosine
        own |= {"loss (a confounder)": row["loss"], "length (a confounder)": row["tokens"]}
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return found


def judge(score: list[float], benefit: list[float]) -> dict[str, Any]:
    """Rank correlation with a bootstrap interval, and how many of the top fifth help."""
    s, b = np.array(score), np.array(benefit)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(s), len(s)) for _ in range(1000)]
    found = sorted(float(spearmanr(s[d], b[d]).statistic) for d in draws)
    top = np.argsort(-s, kind="stable")[: max(1, len(s) // 5)]
    return {"spearman": float(spearmanr(s, b).statistic), "ci95": [found[24], found[974]],
            "helped_share_top20": float((b[top] > 0).mean())}  # fmt: skip


def summary(folder: Path) -> dict[str, Any]:
    """Every score judged in every case."""
    scores: dict[str, dict[str, Any]] = {}
    helped: dict[str, Any] = {}
    for task in TASKS:
        points = {p: folder / f"{task}-{p}.json" for p in ("base", "early")}
        loaded = {p: json.loads(f.read_text()) for p, f in points.items() if f.exists()}
        for name, point in loaded.items():
            for what in ("texts", "groups"):
                of = [
                    i
                    for i, r in enumerate(point["rows"])
                    if (r["kind"] == "group") == (what == "groups")
                ]
                taken = {"re-scored": scores_of(point)}
                if name == "early" and "base" in loaded:
                    taken["static"] = scores_of(loaded["base"])
                for size in point["sizes"]:
                    benefit = [point["rows"][i][size] for i in of]
                    helped[f"{task}, {name}, {size}, {what}"] = {
                        "share": float(np.mean([b > 0 for b in benefit])),
                        "mean": float(np.mean(benefit)), "step_length": point["sizes"][size],
                    }  # fmt: skip
                    for when, values_ in taken.items():
                        taken_when = when if name == "early" else "static"
                        case = f"{task}, {name}, {size}, {what}, {taken_when}"
                        for score, numbers in values_.items():
                            judged = judge([numbers[i] for i in of], benefit)
                            scores.setdefault(score, {})[case] = judged
    return {"scores": scores, "helped": helped}


def main() -> None:
    """Measure what is missing and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/benefit.json")
    arguments = parser.parse_args()
    folder = arguments.json.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        run_task(task, arguments.data, folder, arguments.quick)
        found = {**summary(folder), "machine": machine(), "versions": versions(),
                 "git_revision": git_revision()}  # fmt: skip
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
