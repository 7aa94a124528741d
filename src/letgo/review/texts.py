"""The scored texts of a run as columns, fast enough for a hundred thousand of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from letgo.errors import InputError
from letgo.report.formats import clean, shorten
from letgo.run import decisions
from letgo.run.folder import is_run, read_config, read_table

# Required files, and the command that writes each.
FILES = {
    "self_knowledge.parquet": "elicit",
    "scores.parquet": "score",
    "selection.parquet": "select",
}
TEXT_COLUMNS = ["id", "prompt", "completion", "finish_reason"]
SELECTION_COLUMNS = ["selected", "decided_by", "decided_at"]
SCORE_COLUMNS = ["id", "forget_set", "tokens", "loss_base", "confidence", "score"]


class RunTexts(NamedTuple):
    """Every scored text of a run, in the order of `scores.parquet`.

    Attributes:
        config: settings of the run.
        table: `id, forget_set, tokens, loss_base, confidence, score, prompt, completion,
            finish_reason, selected, decided_by, decided_at`.
    """

    config: dict[str, Any]
    table: pa.Table

    def column(self, name: str) -> np.ndarray:
        """(texts,) values of a column."""
        return np.asarray(self.table[name].to_numpy())

    @property
    def ids(self) -> list[str]:
        """Ids of all texts."""
        return list(self.table["id"].to_pylist())

    @property
    def sets(self) -> list[str]:
        """Names of the forgetting sets, sorted."""
        return sorted(self.table["forget_set"].unique().to_pylist())

    @property
    def score(self) -> str:
        """Name of the score in the column `confidence`."""
        return str(self.table["score"][0]) if len(self.table) else "none"

    @property
    def selection_mode(self) -> str:
        """The setting `--selection`: "top", or the controls "bottom" and "random"."""
        return str(self.config.get("selection", "top"))

    def ranking(self) -> list[int]:
        """Indices of the texts in the order in which the score selects them."""
        confidence = self.table["confidence"].to_pylist()
        seed = int(self.config.get("seed", 42))
        return decisions.rank(self.ids, confidence, self.selection_mode, seed)


def open_texts(folder: Path) -> RunTexts:
    """Read the texts of a run with their scores and selection.

    Raises:
        InputError: the folder is not a run, or a stage up to `select` is missing.
    """
    if not is_run(folder):
        raise InputError(f"{folder} is not a run of letgo; give the --output_dir of one")
    for file, stage in FILES.items():
        if not (folder / file).is_file():
            command = f"letgo {stage} --output_dir {folder}"
            raise InputError(f"{folder} has no {file}; make it by `{command}`")
    table = read_table(folder / "scores.parquet", SCORE_COLUMNS).combine_chunks()
    texts = read_table(folder / "self_knowledge.parquet", TEXT_COLUMNS).combine_chunks()
    selection = read_table(folder / "selection.parquet").combine_chunks()
    if "decided_by" not in selection.column_names:  # runs older than `letgo review`
        by_score = pa.array(["score"] * len(selection), pa.string())
        selection = selection.append_column("decided_by", by_score)
        selection = selection.append_column("decided_at", pa.nulls(len(selection), pa.string()))
    for source, names in ((texts, TEXT_COLUMNS[1:]), (selection, SELECTION_COLUMNS)):
        aligned = _align(source, table["id"])
        for name in names:
            table = table.append_column(name, aligned[name])
    return RunTexts(read_config(folder), table)


def _align(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """The rows of a table in the order of these ids."""
    if table["id"].equals(ids):
        return table
    indices = pc.index_in(ids, value_set=table["id"].combine_chunks())
    if indices.null_count:
        raise InputError(
            "scores.parquet holds texts that self_knowledge.parquet or selection.parquet lacks; "
            "make all three again by `letgo run --overwrite`"
        )
    return table.take(indices)


def in_a_line(text: dict[str, Any], length: int) -> str:
    """Prompt and answer on one line of at most `length` characters, safe to display."""
    return shorten(" ".join(clean(f"{text['prompt']} -> {text['completion']}").split()), length)
