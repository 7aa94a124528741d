"""Stage 2d: which texts are to be forgotten."""

import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data import top_fraction
from letgo.progress import log
from letgo.stages import Run, need


def select(run: Run, scratch: Path) -> None:
    """Write `selection.parquet`: the top `forget_fraction` of all texts by confidence.

    As controls, `--selection bottom` takes as many from the other end, `random` any by `--seed`.
    """
    which, seed = run.config.run.selection, run.config.training.seed
    fraction = run.config.training.forget_fraction
    scores = pq.read_table(need(run, "scores.parquet", "score"), columns=["id", "confidence"])
    ids, confidence = scores["id"].to_pylist(), scores["confidence"].to_pylist()
    finite = [i for i, value in enumerate(confidence) if math.isfinite(value)]
    values = [confidence[i] for i in finite]
    if which == "bottom":
        values = [-value for value in values]
    elif which == "random":
        draw = random.Random(seed)
        values = [draw.random() for _ in values]
    chosen = top_fraction([ids[i] for i in finite], values, fraction)

    def reason(name: str, value: float) -> str:
        if not math.isfinite(value):
            return "no finite confidence"
        if which != "top":
            return f"{'' if name in chosen else 'not '}{which} {fraction:.4g}"
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
