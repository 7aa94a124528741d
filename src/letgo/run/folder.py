"""The files of a run folder: which stage makes them, and how they are read and written."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from letgo.data.files import atomic_write
from letgo.errors import InputError

Row = dict[str, Any]


class Output(NamedTuple):
    """A file or folder in the run folder, and the stage (a command) that makes it."""

    name: str
    stage: str


SELF_KNOWLEDGE = Output("self_knowledge.parquet", "elicit")
KEPT = Output("kept.parquet", "keep")
PROBE = Output("probe", "probe")
FISHER = Output("fisher.safetensors", "fisher")
SCORES = Output("scores.parquet", "score")
SELECTION = Output("selection.parquet", "select")
LWF = Output("lwf", "train")
TRAIN_LOG = Output("train_log.jsonl", "train")
BASELINE = Output("baseline.parquet", "baseline")
HELD_OUT = Output("held_out.parquet", "baseline")
HEADROOM = Output("headroom.json", "baseline")
RELEARNED = Output("relearned.parquet", "relearn")
METRICS = Output("metrics.json", "evaluate")
ANSWERS = Output("answers.parquet", "evaluate")
MODEL = Output("model", "evaluate")
HARNESS = Output("harness.json", "evaluate --harness")
REPORT = Output("report.html", "report")


def require(folder: Path, *outputs: Output) -> Path:
    """The path of the last of `outputs`, all of which must exist.

    Raises:
        InputError: one does not; names the command that makes it.
    """
    for output in outputs:
        path = folder / output.name
        if not path.exists():
            raise InputError(
                f"--output_dir: {folder} has no {output.name}; run `letgo {output.stage} "
                f"--output_dir {folder}` first"
            )
    return path


# In `lwf/`, if that is the SFT baseline: a sentence that says why.
PLAIN_REASON = "why_plain.txt"


def plain_reason(lwf: Path) -> str:
    """Why LWF's model is the SFT baseline's; empty if it is a model of its own."""
    file = lwf / PLAIN_REASON
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def is_run(folder: Path) -> bool:
    """Whether letgo created this folder."""
    file = folder / "config.yaml"
    return file.is_file() and "provenance:" in file.read_text(encoding="utf-8", errors="replace")


def read_config(folder: Path) -> Row:
    """The settings of the run, with its origin under "provenance"."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}


def read_json(path: Path) -> Any:
    """The content of a JSON file; an empty object if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write a JSON file that appears whole or not at all; without indent, on one line."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_log(path: Path) -> list[Row]:
    """The lines of a training log; none if there is no such file."""
    if not path.is_file():
        return []
    # Only a newline ends a line here; str.splitlines would also cut at characters JSON allows.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def read_table(
    path: Path, columns: list[str] | None = None, filters: list[tuple[str, str, str]] | None = None
) -> pa.Table:
    """The content of a Parquet file."""
    # Without partitioning=None a folder named like "seed=1" would come as one more column.
    return pq.read_table(path, columns=columns, filters=filters, partitioning=None)


def read_texts(folder: Path, leave_out: Collection[str] = ()) -> pa.Table:
    """Every scored text: what the model wrote, its scores, and whether it is selected.

    Args:
        leave_out: columns that are not needed, such as the long `completion_ids`.

    Returns:
        the columns of `scores.parquet`, `self_knowledge.parquet` and `selection.parquet`, in the
        order of the scores.

    Raises:
        InputError: a file is missing, or the files are of different texts.
    """
    table = read_table(require(folder, SCORES)).combine_chunks()
    for output in (SELF_KNOWLEDGE, SELECTION):
        file = require(folder, output)
        columns = [name for name in pq.read_schema(file).names if name not in leave_out]
        other = _in_order_of(table["id"], read_table(file, columns).combine_chunks())
        for name in columns:
            if name not in table.column_names:
                table = table.append_column(name, other[name])
    if "decided_by" not in table.column_names:  # selected before there were reviews
        table = table.append_column("decided_by", pa.array(["score"] * len(table), pa.string()))
        table = table.append_column("decided_at", pa.nulls(len(table), pa.string()))
    return table


def _in_order_of(ids: pa.ChunkedArray, table: pa.Table) -> pa.Table:
    """The rows of `table` with these ids, in their order."""
    if table["id"].equals(ids):
        return table
    indices = pc.index_in(ids, value_set=table["id"].combine_chunks())
    if indices.null_count:
        raise InputError(
            "scores.parquet and the files beside it are of different texts; make them again by "
            "`letgo run --overwrite`"
        )
    return table.take(indices)


def read_score_constants(folder: Path) -> Row:
    """Numbers that all scores of a run share, by name; empty where the score has none."""
    metadata = pq.read_schema(require(folder, SCORES)).metadata or {}
    if metadata.get(b"alpha", b"auto") == b"auto":
        return {}
    return {name: float(metadata[name.encode()]) for name in ("alpha", "constant")}
