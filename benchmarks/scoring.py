"""The cost of scoring, compared with an ordinary training step and with other libraries.

usage: python benchmarks/scoring.py [--quick] [--data FOLDER] --json FILE

In each round every method runs once on SmolLM2-135M with the same batch. A ratio is the median over
rounds of the method's time divided by that of an ordinary forward and backward pass (with all
weight gradients). A method computes two products per text, `<v, G>` and `<G, F G>`, with G the
text's gradient and F diagonal; a check at the start compares the results of all methods. Peak
memory is measured in a separate process, beyond the loaded model. The other libraries are in the
extra `bench`; one that is missing or fails is reported. An interrupted run can be continued
(`FILE.part`).
"""

import argparse
import copy
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import machine
from points import Model, dot, learn
from scipy.stats import spearmanr
from scoring_methods import LIBRARIES, METHODS, OURS, Setting, load, loop

from letgo.data.records import read_records
from letgo.data.tokens import prompt_ids
from letgo.models.inference import Batch
from letgo.run.provenance import git_revision, versions
from letgo.scoring.scores import SCORES, LearningStats
from letgo.scoring.weights import scored_weights

SHAPES = {"8x64": (8, 64), "4x256": (4, 256)}
# Freed memory is returned to the system at once, so that a peak is the memory in use.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
PAIRS = (("sst5", "qasc"), ("qasc", "dental"), ("psychol", "gsm8k"))
TOLERANCE = 1e-3  # largest deviation divided by largest product, in fp32


def agreement() -> dict[str, dict[str, float]]:
    """Largest deviation from the products of `loop`, relative to its largest, on a small batch.

    Raises:
        AssertionError: a method computes other products.
    """
    s = Setting((4, 24), bf16=False)
    s.fixed("direction"), s.fixed("fisher")
    expected, deviations = loop(s)(), {}
    for name in ("diagonal", "vmap", "kronfluence", "opacus", "bergson"):
        work, missing = prepared(name, s.on(copy.deepcopy(s.model)))
        if missing:
            continue
        products = work()
        deviations[name] = {
            key: float((products[key] - value).abs().max() / value.abs().max())
            for key, value in expected.items()
        }
        assert max(deviations[name].values()) < TOLERANCE, (name, deviations[name])
        print(f"agreement of {name}: {deviations[name]}", flush=True)
    return deviations


def prepared(name: str, s: Setting) -> tuple[Callable[[], Any], str | None]:
    """A method that has run once, or the reason why it cannot run."""
    try:
        work = METHODS[name](s)
        work()
    except ImportError as error:
        return lambda: None, f"not installed: {error}"
    except Exception as error:  # a library may fail with any error, which is its result
        if name not in LIBRARIES:
            raise
        return lambda: None, f"{type(error).__name__}: {error}".splitlines()[0]
    return work, None


def compare(shape: str, dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Ratios to an ordinary pass; every second round runs the methods in reverse order."""
    s = Setting(SHAPES[shape], dtype == "bf16")
    s.fixed("direction"), s.fixed("fisher"), s.direction()
    works, rows, rounded = {}, {}, s.on(copy.deepcopy(s.model))
    for name in METHODS:
        library = name.startswith(LIBRARIES)
        # letgo's methods share one model with rounded weights; a library may change its model.
        own = s.on(copy.deepcopy(s.model)) if library else copy.copy(rounded if name in OURS else s)
        own.inputs = dict(s.inputs)
        works[name], missing = prepared(name, own)
        rows[name] = {"batch": shape, "dtype": dtype, "method": name}
        if missing:
            rows[name]["missing"] = missing
            del works[name]
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds):
        for name in list(works)[:: -1 if index % 2 else 1]:
            gc.collect()
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(each, seconds["ordinary"], strict=True)]
        rows[name] |= {
            "ratio": statistics.median(ratios),
            "rounds": ratios,
            "seconds_per_text": statistics.median(each) / SHAPES[shape][0],
        }
        print(f"{shape} {dtype} {name}: {rows[name]['ratio']:.2f}", flush=True)
    return list(rows.values())


def status(key: str) -> int:
    """An entry of /proc/self/status about this process's memory, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def run_for_peak(method: str, shape: str, dtype: str) -> None:
    """Print the peak memory of a method in this process, beyond the loaded model."""
    s = Setting(SHAPES[shape], dtype == "bf16")
    ids = torch.arange(4)[None]
    s.losses(batch=Batch(ids, torch.ones_like(ids), ids)).sum().backward()  # loads all code
    s.model.zero_grad()
    before = status("VmRSS")
    work = METHODS[method](s)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak after loading
    work()
    peak = status("VmHWM") - before
    sizes = {
        key if isinstance(key, str) else key[0]: sum(t.nbytes for t in tensors.values())
        for key, tensors in s.inputs.items()
    }
    print(
        json.dumps(
            {
                "extra_memory": peak,
                "fixed_inputs": sum(sizes.values()),
                "direction": sizes.get("direction", 0),
                "fisher": sizes.get("fisher", 0),
            }
        )
    )


def peak(method: str, shape: str, dtype: str) -> dict[str, Any]:
    """Peak memory beyond the model and the size of the fixed inputs, in bytes; or an error."""
    command = [sys.executable, __file__, "--peak", method, shape, dtype]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **EXACT})
    if run.returncode:
        return {"missing": f"peak memory: {run.stderr.strip().splitlines()[-1]}"}
    measured = json.loads(run.stdout.splitlines()[-1])
    print(
        f"{shape} {dtype} {method}: peak {measured['extra_memory'] / 1e6:.0f} MB beyond the model, "
        f"{measured['fixed_inputs'] / 1e6:.0f} MB of it fixed inputs",
        flush=True,
    )
    return measured


def rank_agreement(data: Path, learn_task: str, forget_task: str, quick: bool) -> dict[str, float]:
    """Spearman's correlation of scores with the factored and with the diagonal Fisher.

    Args:
        data: the folder of the data sets.
        learn_task: the task that the model is fine-tuned on, briefly.
        forget_task: the task whose prompts the model answers.
        quick: use fewer texts and examples.

    Returns:
        correlations for `fisher_distance` with alpha = auto and for its two parts.
    """
    count, examples = (32, 24) if quick else (96, 64)
    model = Model()
    read = {
        task: read_records(str(data / task / "train.jsonl"), "--data", True)[:2000]
        for task in (learn_task, forget_task)
    }
    rows = [model.row(r.prompt, r.completion or "") for r in read[learn_task]]
    rows = [row for row in rows if len(row["input_ids"]) <= 128][:320]
    short = [
        r.prompt for r in read[forget_task] if len(prompt_ids(model.tokenizer, r.prompt)) <= 112
    ]
    texts = model.answer(short[:count], 16)
    base = model.copy()
    optimum = learn(model, rows, 2e-5, 0, 8 if quick else 20)["optimum"]
    delta = model.difference(base, optimum)
    fishers = {kind: model.fisher(rows[:examples], kind) for kind in ("diagonal", "factored")}
    weighted = {
        kind: {n: fisher[n].times(d) for n, d in delta.items()} for kind, fisher in fishers.items()
    }
    model.put(base)
    squares = {f"{kind} norm": fisher for kind, fisher in fishers.items()}
    products = model.products(texts, weighted, squares)
    scores: dict[str, dict[str, list[float]]] = {}
    for kind in fishers:
        task = LearningStats(dot(weighted[kind], delta), 1.0, 1.0, None)
        numbers = [
            {"linear": row["dots"][kind], "quadratic": row[f"{kind} norm"]} for row in products
        ]
        scores[kind] = {
            "fisher_distance": [SCORES["fisher_distance"](text, task) for text in numbers],
            **{key: [text[key] for text in numbers] for key in ("linear", "quadratic")},
        }
    return {
        name: float(spearmanr(scores["diagonal"][name], scores["factored"][name]).statistic)
        for name in scores["diagonal"]
    }


def goals(
    cases: list[dict[str, Any]], spearman: dict[str, float], model_bytes: int, layer: int
) -> dict[str, dict[str, Any]]:
    """The goals at 8x64 bf16, with the measured values."""
    by = {row["method"]: row for row in cases if (row["batch"], row["dtype"]) == ("8x64", "bf16")}
    ratio = {name: row["ratio"] for name, row in by.items() if "ratio" in row}
    memory = {
        # Beyond the memory of the pass and of the direction.
        name: by[name]["extra_memory"] - by["floor"]["extra_memory"] - by[name]["direction"]
        for name in ("diagonal", "factored")
    }
    others = [ratio[n] for n in ("loop", "vmap", *LIBRARIES) if n in ratio]
    rows = {
        "diagonal: ratio": (ratio["diagonal"], "<=", 1.25),
        "factored: ratio": (ratio["factored"], "<=", 0.85),
        "loop / diagonal": (ratio["loop"] / ratio["diagonal"], ">=", 3),
        "fastest other / diagonal": (min(others) / ratio["diagonal"], ">=", 1),
        "factored: memory by model": (memory["factored"] / model_bytes, "<=", 0.05),
        "diagonal: memory by Fisher and a layer's gradients": (
            memory["diagonal"] / (by["diagonal"]["fisher"] + layer),
            "<=",
            1,
        ),
        **{f"Spearman {pair}": (value, ">=", 0.99) for pair, value in spearman.items()},
    }
    if "kronfluence linear" in ratio:
        rows["kronfluence / letgo, linear product alone"] = (
            ratio["kronfluence linear"] / ratio["linear"],
            ">=",
            1,
        )
    return {
        name: {
            "value": value,
            "goal": f"{sign} {limit}",
            "met": value <= limit if sign == "<=" else value >= limit,
        }
        for name, (value, sign, limit) in rows.items()
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one batch, one pair, fewer rounds")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("LETGO_DATA", "data")),
        help="folder of {gsm8k,qasc,...}/train.jsonl [$LETGO_DATA]",
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return run_for_peak(*arguments.peak)
    if arguments.json is None:
        parser.error("--json is missing")
    logging.getLogger("letgo").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # libraries warn about their own code
    quick = arguments.quick
    batches = [("8x64", "bf16")] if quick else [(s, d) for s in SHAPES for d in ("bf16", "fp32")]
    methods = ("floor", "diagonal", "factored") if quick else tuple(METHODS)
    # Memory is measured first, while this process is small.
    part = arguments.json.with_name(f"{arguments.json.name}{'.quick' if quick else ''}.part")
    done: dict[str, Any] = json.loads(part.read_text()) if part.exists() else {}

    def once(name: str, work: Callable[[], Any]) -> Any:
        """The saved result of `work`, or a new one."""
        if name not in done:
            done[name] = work()
            part.write_text(json.dumps(done))
        return done[name]

    cases = [(method, *batch) for batch in batches for method in methods]
    memory = {case: once("peak " + " ".join(case), partial(peak, *case)) for case in cases}
    pairs = PAIRS[:1] if quick else PAIRS
    parts = once(
        "spearman",
        lambda: {"-".join(pair): rank_agreement(arguments.data, *pair, quick) for pair in pairs},
    )
    model = load()
    model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    largest = max(rows * columns for rows, columns in scored_weights(model).shapes.values())
    del model
    result: dict[str, Any] = {"agreement": once("agreement", agreement)}
    rows = [
        row
        for batch in batches
        for row in once("time " + " ".join(batch), partial(compare, *batch, 2 if quick else 3))
    ]
    for row in rows:
        peaks = memory.get((row["method"], row["batch"], row["dtype"]), {})
        row |= {key: value for key, value in peaks.items() if key not in row}
        if "extra_memory" in row:
            row["extra_memory_share"] = row["extra_memory"] / model_bytes
    spearman = {pair: part.pop("fisher_distance") for pair, part in parts.items()}
    layer = SHAPES["8x64"][0] * largest * 4  # one layer's gradients of a batch, float32
    result |= {
        "cases": rows,
        "spearman": spearman,
        "spearman_parts": parts,
        "model_bytes": model_bytes,
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    result["goals"] = goals(rows, spearman, model_bytes, layer)
    for name, goal in result["goals"].items():
        print(
            f"{name}: {goal['value']:.3f} (goal {goal['goal']}: "
            f"{'met' if goal['met'] else 'missed'})"
        )
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    part.unlink()


if __name__ == "__main__":
    main()
