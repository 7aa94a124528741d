"""Stage 2d: which texts are to be forgotten."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data import top_fraction
from letgo.progress import log
from letgo.stages import Run, need


def select(run: Run, scratch: Path) -> None:
    """Write `selection.parquet`: the top `forget_fraction` of all texts by confidence."""
    fraction = run.config.training.forget_fraction
    scores = pq.read_table(need(run, "scores.parquet", "score"), columns=["id", "confidence"])
    ids, confidence = scores["id"].to_pylist(), scores["confidence"].to_pylist()
    finite = [i for i, value in enumerate(confidence) if math.isfinite(value)]
    chosen = top_fraction([ids[i] for i in finite], [confidence[i] for i in finite], fraction)

    def reason(name: str, value: float) -> str:
        if not math.isfinite(value):
            return "no finite confidence"
        return f"{'top' if name in chosen else 'below the top'} {fraction:.4g} by confidence"

    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "selected": pa.array([i in chosen for i in ids], pa.bool_()),
            "reason": pa.array(map(reason, ids, confidence), pa.string()),
        }
    )
    pq.write_table(table, scratch / "selection.parquet")
    log.info("select: %d of %d texts", len(chosen), len(ids))
