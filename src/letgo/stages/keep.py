"""Stage 1b: the base model answers the keep prompts, and its predictions are stored."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.tokens import chunks_by_length
from letgo.errors import InputError
from letgo.evaluation.own_answers import KEPT_SCHEMA, fitting_prompts, own_answers
from letgo.run.base import load_to_ask
from letgo.run.folder import KEPT, Row
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks


def keep(run: Run, scratch: Path) -> None:
    """Write `kept.parquet`: the base model's answers to the keep prompts, and its predictions.

    With `--keep_loss kl` these are the likeliest tokens at each token of an answer; with `nll`
    there are none.

    Raises:
        InputError: nothing is left of a keep set.
    """
    lm, settings = load_to_ask(run.config), run.settings
    length, size = settings.max_new_tokens, settings.generation_batch_size
    top_k = run.training.keep_top_k if run.training.keep_loss == "kl" else 0
    table: list[Row] = []
    for name, records in run.keep.items():
        chunks = chunks_by_length(fitting_prompts(lm, "--keep", name, records, length), size)
        rows = in_chunks(
            f"keep {name}", scratch, chunks, lambda chunk: own_answers(lm, chunk, length, top_k)
        )
        texts = [row for row in rows if row["completion"].strip()]
        if not texts:
            raise InputError(
                f"--keep: the model answers nothing to any prompt of {name}; use other prompts or "
                f"raise --max_new_tokens (now {length})"
            )
        for row in sorted(texts, key=lambda row: row["id"]):
            table.append({**row, "id": f"{name}:{row['id']}", "set": name})
    pq.write_table(pa.Table.from_pylist(table, KEPT_SCHEMA), scratch / KEPT.name)
