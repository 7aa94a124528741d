"""Stage 2d: which texts are to be forgotten."""

from pathlib import Path

import pyarrow.parquet as pq

from letgo.progress import log
from letgo.run import decisions
from letgo.run.inputs import Run
from letgo.run.stage import require


def select(run: Run, scratch: Path) -> None:
    """Write `selection.parquet`: the top `forget_fraction` of all texts by confidence.

    As controls, `--selection bottom` takes as many from the other end, `random` any by `--seed`.
    What people have decided in `letgo review` stands.
    """
    which, seed = run.settings.selection, run.training.seed
    scores = pq.read_table(require(run, "scores.parquet", "score"), columns=["id", "confidence"])
    ids, confidence = scores["id"].to_pylist(), scores["confidence"].to_pylist()
    decided = decisions.read(run.folder)
    ranking = decisions.rank(ids, confidence, which, seed)
    fraction = run.training.forget_fraction
    table = decisions.selection_table(ids, ranking, fraction, which, decided)
    pq.write_table(table, scratch / "selection.parquet")
    if decided.fingerprint:
        known = len({*ids} & {*decided.texts})
        gone = len(decided.texts) - known
        log.info(
            "select: what people have decided in `letgo review` is kept: %d texts%s%s",
            known,
            "" if decided.fraction is None else f", and {decided.fraction:.4g} for the score",
            f" ({gone} more are gone)" if gone else "",
        )
    log.info("select: %d of %d texts", sum(table["selected"].to_pylist()), len(ids))
