"""Stage 3: fine-tuning with periodic unlearning."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from letgo.stages import Run, need
from letgo.training import fit


def train(run: Run, scratch: Path) -> None:
    """Write `lwf/` and `train_log.jsonl`: the base model after Learning With Forgetting."""
    texts = pq.read_table(need(run, "self_knowledge.parquet", "elicit")).to_pylist()
    scores, selection = (
        {row["id"]: row for row in pq.read_table(need(run, file, stage)).to_pylist()}
        for file, stage in (("scores.parquet", "score"), ("selection.parquet", "select"))
    )
    rescoring = run.config.training.rescore_interval != 0
    forget = [
        {
            **{name: text[name] for name in
               ("prompt_ids", "completion_ids", "completion", "mean_logprob")},
            **{name: scores[text["id"]][name] for name in ("confidence", "score")},
            "selected": may_be_unlearned(selection[text["id"]], rescoring),
        }
        for text in texts
    ]  # fmt: skip
    fit(run, scratch, scratch / "lwf", "fine-tune (LWF)", forget)


def may_be_unlearned(row: dict[str, Any], rescoring: bool) -> bool:
    """Whether a row of `selection.parquet` lets its text be unlearned.

    Re-scoring chooses anew, so that it may take what only the score has left out; what has any
    other reason, or was taken back by a person, stays out.
    """
    return bool(row["selected"]) or (rescoring and str(row["reason"]).startswith("below the top"))
