"""Stage 3: fine-tuning with periodic unlearning."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from letgo.errors import InputError
from letgo.run import decisions
from letgo.run.inputs import Run
from letgo.run.stage import require
from letgo.stages.fit import fit


def train(run: Run, scratch: Path) -> None:
    """Write `lwf/` and `train_log.jsonl`: the base model after Learning With Forgetting.

    Raises:
        InputError: `selection.parquet` lacks a decision.
    """
    texts = pq.read_table(require(run, "self_knowledge.parquet", "elicit")).to_pylist()
    scores, chosen = (
        pq.read_table(require(run, file, stage))
        for file, stage in (("scores.parquet", "score"), ("selection.parquet", "select"))
    )
    decided = decisions.read(run.folder)
    if not decisions.is_current(chosen.schema, decided):
        raise InputError(
            f"--output_dir: selection.parquet lacks the last decision of {decisions.JOURNAL}; "
            f"`letgo review {run.folder}` writes it anew"
        )
    if decided.fraction is not None:
        training = copy.copy(run.training)
        training.forget_fraction = decided.fraction
        run = replace(run, config=run.config._replace(training=training))
    score_of, selection = (
        {row["id"]: row for row in table.to_pylist()} for table in (scores, chosen)
    )
    rescoring = run.training.rescore_interval != 0
    forget = [
        {
            **{
                name: text[name]
                for name in ("prompt_ids", "completion_ids", "completion", "mean_logprob")
            },
            **{name: score_of[text["id"]][name] for name in ("confidence", "score")},
            "selected": bool(selection[text["id"]]["selected"]),
            "allowed": may_be_unlearned(selection[text["id"]], rescoring),
            "forced": is_forced(selection[text["id"]]),
        }
        for text in texts
    ]
    fit(run, scratch, scratch / "lwf", "fine-tune (LWF)", forget)


def may_be_unlearned(row: dict[str, Any], rescoring: bool) -> bool:
    """Whether a row of `selection.parquet` lets its text be unlearned.

    Re-scoring chooses anew, so that it may take what only the score has left out; what has any
    other reason, or was taken back by a person, stays out.
    """
    return bool(row["selected"]) or (rescoring and str(row["reason"]).startswith("below the top"))


def is_forced(row: dict[str, Any]) -> bool:
    """Whether a person has said that the text is to be unlearned, whatever re-scoring says."""
    return bool(row["selected"]) and row.get("decided_by") == "person"
