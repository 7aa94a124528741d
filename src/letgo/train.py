"""Stage 3: fine-tuning with periodic unlearning."""

from pathlib import Path

import pyarrow.parquet as pq

from letgo.stages import Run, need
from letgo.training import fit


def train(run: Run, scratch: Path) -> None:
    """Write `model/` and `train_log.jsonl`: the base model after Learning With Forgetting."""
    texts = pq.read_table(need(run, "self_knowledge.parquet", "elicit")).to_pylist()
    scores, selection = (
        {row["id"]: row for row in pq.read_table(need(run, file, stage)).to_pylist()}
        for file, stage in (("scores.parquet", "score"), ("selection.parquet", "select"))
    )
    forget = [
        {
            **{name: text[name] for name in
               ("prompt_ids", "completion_ids", "completion", "mean_logprob")},
            "confidence": scores[text["id"]]["confidence"],
            "selected": selection[text["id"]]["selected"],
        }
        for text in texts
    ]  # fmt: skip
    fit(run, scratch, scratch / "model", "fine-tune (LWF)", forget)
