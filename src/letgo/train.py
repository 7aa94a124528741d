"""Stage 3: fine-tuning with periodic unlearning."""

from pathlib import Path

import pyarrow.parquet as pq

from letgo.data import generated_rows
from letgo.stages import Run, need
from letgo.training import fit


def train(run: Run, scratch: Path) -> None:
    """Write `model/` and `train_log.jsonl`: the base model after Learning With Forgetting."""
    texts = pq.read_table(need(run, "self_knowledge.parquet", "elicit")).to_pylist()
    selection = pq.read_table(need(run, "selection.parquet", "select")).to_pylist()
    selected = {row["id"] for row in selection if row["selected"]}
    forget = generated_rows([text for text in texts if text["id"] in selected])
    fit(run, scratch, scratch / "model", "fine-tune (LWF)", forget)
