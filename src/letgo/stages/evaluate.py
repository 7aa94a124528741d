"""Stage 4b: how base, SFT and LWF compare, and which of SFT and LWF the run returns."""

import shutil
from collections import defaultdict
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.splits import NEUTRAL
from letgo.evaluation import statistics as stats
from letgo.evaluation.asking import all_answers, evaluated_sets, right_answers, task_rule
from letgo.evaluation.held_out import held_out_answers
from letgo.evaluation.outcomes import LEARNED, LET_GO, OLD_ANSWERS, measure_figure, outcomes
from letgo.evaluation.rules import LEARN, OF_TEXTS, corpus_scores
from letgo.evaluation.verdict import judge, sentence
from letgo.run.base import load_to_ask
from letgo.run.folder import (
    ANSWERS,
    BASELINE,
    HEADROOM,
    HELD_OUT,
    LWF,
    METRICS,
    MODEL,
    PROBE,
    RELEARNED,
    Row,
    plain_reason,
    read_json,
    read_table,
    require,
    write_json,
)
from letgo.run.inputs import FORGET_SET, VALIDATION, Run

# Columns of `answers.parquet` that are no metrics.
TEXTS = {"model", "set", "id", "prompt", "reference", "generated"}
# The metrics that say what answers are worth; the first that a set has is compared.
WORTH = {"score": stats.score, "correct": stats.accuracy}


def evaluate(run: Run, scratch: Path) -> None:
    """Write `metrics.json`, `answers.parquet` and `model/`, the better of LWF and SFT.

    `model/` is plain fine-tuning's unless the validation prompts speak for LWF; the test prompts
    decide nothing. Where nothing was unlearned or kept, LWF's answers are plain fine-tuning's.
    """
    lwf = require(run.folder, LWF)
    rows = read_table(require(run.folder, BASELINE)).to_pylist()
    if reason := plain_reason(lwf):
        rows += [{**row, "model": "lwf"} for row in rows if row["model"] == "sft"]
    else:
        load = cache(partial(load_to_ask, run.config, lwf))
        old = read_table(require(run.folder, HELD_OUT)).to_pylist()
        rows += all_answers(run, scratch, "lwf", load)
        rows += held_out_answers(run, scratch, "lwf", load, old)
    metrics = compare(rows, run.settings.margin, reason) | judged_by(run, rows)
    if run.settings.relearn and any(name.startswith(FORGET_SET) for name in run.held_out):
        again = read_table(require(run.folder, RELEARNED)).to_pylist()
        metrics["outcomes"][LET_GO]["more"]["relearned"] = measure_figure(again, OLD_ANSWERS)
    metrics["headroom"] = read_json(require(run.folder, HEADROOM))
    write_json(scratch / METRICS.name, metrics)
    pq.write_table(pa.Table.from_pylist(rows), scratch / ANSWERS.name)
    returned = require(run.folder, PROBE) if metrics["verdict"] == "sft" else lwf
    shutil.copytree(returned, scratch / MODEL.name)  # no link: it is the user's to change


def compare(rows: list[Row], margin: float, reason: str = "") -> Row:
    """The content of `metrics.json`, from rows of `answers.parquet`.

    Args:
        margin: `--margin`, in percentage points.
        reason: why LWF is plain fine-tuning; empty if it is not.

    Returns:
        `models`: accuracy or score by model and set; `lwf_minus_sft`: paired differences by set, of
        it and, under its name, of every other metric; `neutral_perplexity` by model;
        `outcomes`, of the test prompts, and `validation_outcomes`; `verdict`: "lwf" or "sft" by the
        validation outcomes, or "no baseline"; `verdict_parts`, its three parts, and `sentence`.
    """
    # By (model, set) and metric, in the order of the rows.
    values: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for metric in row.keys() - TEXTS:
            if row[metric] is not None:
                values[row["model"], row["set"]][metric].append(row[metric])
    judged = [key for key in values if values[key].keys() & WORTH.keys()]
    labels, sets = (list(dict.fromkeys(names)) for names in zip(*judged, strict=True))
    compared = sets if "sft" in labels else []
    return {
        "models": {m: {n: _worth(values[m, n]) for n in sets if (m, n) in judged} for m in labels},
        "lwf_minus_sft": {n: _difference(values["lwf", n], values["sft", n]) for n in compared},
        "neutral_perplexity": {
            label: stats.perplexity(values[label, NEUTRAL]["reference_nll"]) for label in labels
        },
        "outcomes": outcomes(rows),
        **decide(outcomes(rows, validation=True), margin, reason),
    }


def judged_by(run: Run, rows: list[Row]) -> Row:
    """`rules`, the rule of each task, and `corpus`, the scores of translations by set and model.

    Empty where no rule is named: all follow from the right answers then.
    """
    if not run.settings.answer:
        return {}
    sets = evaluated_sets(run) | run.held_out
    rules, corpus = {}, {}
    for name, records in sets.items():
        task = LEARN if name in evaluated_sets(run) else name.removeprefix(f"{VALIDATION}:")
        right = {r.id: right_answers(r) for r in records if right_answers(r)}
        judged = [row for row in rows if row["set"] == name and row["id"] in right]
        if judged:
            rules[task] = task_rule(run, task).name
            if rules[task] in OF_TEXTS:
                corpus[name] = corpus_scores(judged, right)
    return {"rules": rules, **({"corpus": corpus} if corpus else {})}


def decide(validation: Row, margin: float, reason: str) -> Row:
    """`verdict`, `verdict_parts`, `sentence` and `validation_outcomes` of `metrics.json`."""
    decided: Row = {"validation_outcomes": validation, "verdict_parts": {}}
    if reason:
        return decided | {"verdict": "sft", "sentence": reason}
    if "lwf_minus_sft" not in validation.get(LEARNED, {}):
        return decided | {"verdict": "no baseline", "sentence": ""}
    verdict = judge(validation, margin)
    parts = {"verdict_parts": asdict(verdict), "sentence": sentence(verdict, validation)}
    return decided | {"verdict": verdict.model} | parts


def _worth(values: dict[str, list[Any]]) -> Row:
    """What the answers of a model to a set are worth: `score`, else `accuracy`; `n` and `ci95`.

    A score stands beside the `accuracy` of answers that are right or wrong, too.
    """
    found = [of(values[metric]) for metric, of in WORTH.items() if metric in values]
    return {**found[-1], **found[0]}


def _difference(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> Row:
    """Paired difference of the score or accuracy, and of every other metric under its name."""
    worth = next(metric for metric in WORTH if metric in ours)
    others = sorted(ours.keys() & theirs.keys() - {worth})
    return stats.paired_difference(ours[worth], theirs[worth]) | {
        metric: stats.paired_mean(ours[metric], theirs[metric]) for metric in others
    }
