"""Stage 2d: which texts are selected for unlearning."""

from pathlib import Path

import pyarrow.parquet as pq

from letgo.progress import log
from letgo.run import decisions
from letgo.run.folder import SCORES, SELECTION, read_table, require
from letgo.run.inputs import Run


def select(run: Run, scratch: Path) -> None:
    """Write `selection.parquet`: the top `forget_fraction` of all texts by confidence.

    As controls, `--selection bottom` takes the least confident texts and `random` any, by `--seed`.
    Decisions of people in `letgo review` take precedence.
    """
    which, seed = run.settings.selection, run.training.seed
    scores = read_table(require(run.folder, SCORES), ["id", "confidence"])
    ids, confidence = scores["id"].to_pylist(), scores["confidence"].to_pylist()
    decided = decisions.read(run.folder)
    ranking = decisions.rank(ids, confidence, which, seed)
    table = decisions.selection_table(ids, ranking, run.training.forget_fraction, which, decided)
    pq.write_table(table, scratch / SELECTION.name)
    if decided.fingerprint:
        count = len({*ids} & {*decided.texts})
        missing = len(decided.texts) - count
        log.info(
            "select: decisions of `letgo review` apply to %d texts%s%s",
            count,
            "" if decided.fraction is None else f", and the score selects {decided.fraction:.4g}",
            f" ({missing} more texts no longer exist)" if missing else "",
        )
    log.info("select: %d of %d texts", sum(table["selected"].to_pylist()), len(ids))
