"""Stage 4a: what the base model and plain fine-tuning (SFT) answer."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.evaluation.asking import _all_answers, baseline_models
from letgo.run.inputs import Run


def baseline(run: Run, scratch: Path) -> None:
    """Write `baseline.parquet`: the answers of the base model and of plain fine-tuning (SFT)."""
    loads = baseline_models(run)
    rows = [row for label, load in loads.items() for row in _all_answers(run, scratch, label, load)]
    pq.write_table(pa.Table.from_pylist(rows), scratch / "baseline.parquet")
