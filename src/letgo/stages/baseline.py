"""Stage 4a: the answers of the baselines, and how much forgetting could improve."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.evaluation.asking import all_answers, baseline_folders, task_rule
from letgo.evaluation.habits import SFT_RULE, decoding_rules
from letgo.evaluation.held_out import base_answers, held_out_answers
from letgo.evaluation.outcomes import headroom
from letgo.evaluation.own_answers import KEPT_SCHEMA
from letgo.evaluation.rules import LEARN
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_to_ask
from letgo.run.folder import BASELINE, HEADROOM, HELD_OUT, PROBE, Row, require, write_json
from letgo.run.inputs import Run


def baseline(run: Run, scratch: Path) -> None:
    """Write the answers of the base model and of plain fine-tuning (SFT), and the headroom.

    Of a run with habits also those of SFT with the decoding rules that forbid them.
    `baseline.parquet` has the answers; `held_out.parquet` what the base model says to the held-out
    forgetting and keep prompts, with its predictions; `headroom.json` how often plain fine-tuning
    errs with the base model's own answer.
    """
    old: list[Row] = []
    rows: list[Row] = []
    for label, folder in baseline_folders(run).items():
        # The model is loaded at most once, and only if it has something to answer.
        load = cache(partial(load_to_ask, run.config, folder))
        if label == "base":
            old = base_answers(run, scratch, load)
        rows += all_answers(run, scratch, label, load)
        rows += held_out_answers(run, scratch, label, load, old)
    if run.habits and run.settings.optimum == "full":
        load = cache(partial(_with_rules, run))
        measured = [row for row in old if run.habits_in(row["set"])]
        rows += all_answers(run, scratch, SFT_RULE, load)
        rows += held_out_answers(run, scratch, SFT_RULE, load, measured)
    pq.write_table(pa.Table.from_pylist(old, KEPT_SCHEMA), scratch / HELD_OUT.name)
    pq.write_table(pa.Table.from_pylist(rows), scratch / BASELINE.name)
    found = headroom(rows, task_rule(run, LEARN))
    write_json(scratch / HEADROOM.name, found)
    if found:
        log.info(
            "headroom: of %d validation examples plain fine-tuning errs on %d, on %d of them with "
            "the base model's own answer",
            found["n"],
            found["errors"],
            found["old_answers"],
        )


def _with_rules(run: Run) -> LanguageModel:
    """Plain fine-tuning with the decoding rules that forbid the habits of a run."""
    lm = load_to_ask(run.config, require(run.folder, PROBE))
    return replace(lm, rules=decoding_rules(run, lm.tokenizer))
