"""Stage 4a: the answers of the baselines, the base model and plain fine-tuning (SFT)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.evaluation.asking import all_answers, baseline_models
from letgo.run.folder import BASELINE
from letgo.run.inputs import Run


def baseline(run: Run, scratch: Path) -> None:
    """Write `baseline.parquet`: the answers of the base model and of plain fine-tuning (SFT)."""
    models = baseline_models(run).items()
    rows = [row for label, load in models for row in all_answers(run, scratch, label, load)]
    pq.write_table(pa.Table.from_pylist(rows), scratch / BASELINE.name)
