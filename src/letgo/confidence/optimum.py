"""Stage 2a: the learning task's optimum, by plain fine-tuning; also the baseline."""

from pathlib import Path

from letgo.stages import Run
from letgo.training import fit


def probe(run: Run, scratch: Path) -> None:
    """Write `probe/`: the base model (or an adapter) after vanilla fine-tuning."""
    fit(run, scratch, scratch / "probe", "fine-tune (SFT)")
    (scratch / "train_log.jsonl").rename(scratch / "probe" / "train_log.jsonl")
