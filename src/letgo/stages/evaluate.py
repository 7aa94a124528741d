"""Stage 4: what base, SFT and LWF answer, and how often they are right."""

import shutil
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.splits import NEUTRAL
from letgo.evaluation.asking import (
    VALIDATION,
    _all_answers,
)
from letgo.evaluation.statistics import (
    accuracy,
    paired_difference,
    paired_mean,
    perplexity,
    verdict,
)
from letgo.run.base import load_trained
from letgo.run.folder import write_json
from letgo.run.inputs import Run
from letgo.run.sharing import link
from letgo.run.stage import require


def evaluate(run: Run, scratch: Path) -> None:
    """Write `metrics.json`, `answers.parquet` and `model/`, the better of LWF and SFT.

    Greedy answers are held against the references. Plain fine-tuning is kept unless the validation
    set shows a gain; nothing is chosen by the test set.
    """
    model = require(run, "lwf", "train")
    rows = pq.read_table(require(run, "baseline.parquet", "baseline")).to_pylist()
    rows += _all_answers(run, scratch, "lwf", partial(load_trained, run.config, model))
    right: dict[tuple[str, str], list[bool]] = {}
    nll: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        nll.setdefault((row["model"], row["set"]), []).append(row["reference_nll"])
        if row["correct"] is not None:
            right.setdefault((row["model"], row["set"]), []).append(row["correct"])
    labels, sets = (list(dict.fromkeys(names)) for names in zip(*right, strict=True))
    compared = sets if "sft" in labels else []
    differences = {
        n: paired_difference(right["lwf", n], right["sft", n])
        | {"reference_nll": paired_mean(nll["lwf", n], nll["sft", n])}
        for n in compared
    }
    decided = "sft" if compared else "no baseline"
    if VALIDATION in compared:  # not where nothing was unlearned
        decided = verdict(differences[VALIDATION])
    metrics = {
        "models": {m: {n: accuracy(right[m, n]) for n in sets if (m, n) in right} for m in labels},
        "lwf_minus_sft": differences,
        "neutral_perplexity": {m: perplexity(nll[m, NEUTRAL]) for m in labels},
        "verdict": decided,
    }
    write_json(scratch / "metrics.json", metrics)
    pq.write_table(pa.Table.from_pylist(rows), scratch / "answers.parquet")
    kept = require(run, "probe", "probe") if decided == "sft" else model
    shutil.rmtree(scratch / "model", ignore_errors=True)
    link(kept, scratch / "model")
