"""Stage 4b: how base, SFT and LWF compare, and which of SFT and LWF the run returns."""

import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.splits import NEUTRAL
from letgo.evaluation import statistics as stats
from letgo.evaluation.asking import VALIDATION, all_answers
from letgo.run.base import load_trained
from letgo.run.folder import (
    ANSWERS,
    BASELINE,
    LWF,
    METRICS,
    MODEL,
    PROBE,
    Row,
    read_table,
    require,
    write_json,
)
from letgo.run.inputs import Run
from letgo.run.sharing import link

# Columns of `answers.parquet` that are no metrics, and the metric that is a share of answers.
TEXTS = {"model", "set", "id", "prompt", "reference", "generated"}
CORRECT = "correct"


def evaluate(run: Run, scratch: Path) -> None:
    """Write `metrics.json`, `answers.parquet` and `model/`, the better of LWF and SFT.

    Greedy answers are compared with the references. `model/` is plain fine-tuning's unless the
    validation set shows a gain; the test set decides nothing.
    """
    lwf = require(run.folder, LWF)
    rows = read_table(require(run.folder, BASELINE)).to_pylist()
    rows += all_answers(run, scratch, "lwf", partial(load_trained, run.config, lwf))
    metrics = compare(rows)
    write_json(scratch / METRICS.name, metrics)
    pq.write_table(pa.Table.from_pylist(rows), scratch / ANSWERS.name)
    returned = require(run.folder, PROBE) if metrics["verdict"] == "sft" else lwf
    shutil.rmtree(scratch / MODEL.name, ignore_errors=True)
    link(returned, scratch / MODEL.name)


def compare(rows: list[Row]) -> Row:
    """The content of `metrics.json`, from rows of `answers.parquet`.

    Returns:
        `models`: accuracy by model and set; `lwf_minus_sft`: paired differences by set, of the
        accuracy and, under its name, of every other metric; `neutral_perplexity` by model;
        `verdict`: "lwf" or "sft" by the validation set, or "no baseline".
    """
    # By (model, set) and metric, in the order of the rows.
    values: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for metric in row.keys() - TEXTS:
            if row[metric] is not None:
                values[row["model"], row["set"]][metric].append(row[metric])
    judged = [key for key in values if CORRECT in values[key]]
    labels, sets = (list(dict.fromkeys(names)) for names in zip(*judged, strict=True))
    compared = sets if "sft" in labels else []
    differences = {n: _difference(values["lwf", n], values["sft", n]) for n in compared}
    decision = "sft" if differences else "no baseline"
    if VALIDATION in differences:  # there is none where nothing was unlearned
        decision = stats.verdict(differences[VALIDATION])
    return {
        "models": {
            m: {n: stats.accuracy(values[m, n][CORRECT]) for n in sets if (m, n) in judged}
            for m in labels
        },
        "lwf_minus_sft": differences,
        "neutral_perplexity": {
            label: stats.perplexity(values[label, NEUTRAL]["reference_nll"]) for label in labels
        },
        "verdict": decision,
    }


def _difference(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> Row:
    """Paired difference of the accuracy, and of every other metric under its name."""
    others = sorted(ours.keys() & theirs.keys() - {CORRECT})
    return stats.paired_difference(ours[CORRECT], theirs[CORRECT]) | {
        metric: stats.paired_mean(ours[metric], theirs[metric]) for metric in others
    }
