"""Reading the files of a run folder as plain lists and mappings."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from letgo.errors import InputError

Row = dict[str, Any]

_REQUIRED = ("config.yaml", "self_knowledge.parquet", "scores.parquet", "selection.parquet")


def is_run(folder: Path) -> bool:
    """Return whether letgo has made this folder."""
    file = folder / "config.yaml"
    return file.is_file() and "provenance:" in file.read_text(encoding="utf-8", errors="replace")


def check(folder: Path) -> None:
    """Make sure that `folder` holds what no page can do without.

    Raises:
        InputError: a file is missing.
    """
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {', '.join(missing)}: finish the run before its report")


def read_config(folder: Path) -> Row:
    """Return the settings of the run, with what is known of its origin under "provenance"."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) or {}


def read_log(path: Path) -> list[Row]:
    """Return the lines of a training log, none where there is no file."""
    if not path.is_file():
        return []
    # Only a newline ends a line here; str.splitlines would also cut at characters JSON allows.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def read_rows(path: Path, columns: list[str] | None = None) -> list[Row]:
    """Return the rows of a Parquet file, none where there is no file."""
    rows: list[Row] = read_table(path, columns).to_pylist() if path.is_file() else []
    return rows


def read_table(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Return the content of a Parquet file."""
    # Without partitioning=None a folder named like "seed=1" would come as one more column.
    return pq.read_table(path, columns=columns, filters=filters, partitioning=None)


def read_texts(folder: Path) -> list[Row]:
    """Return every scored text: its score, its words, and whether it was selected and why."""
    words = {
        row["id"]: row
        for row in read_rows(folder / "self_knowledge.parquet", ["id", "prompt", "completion"])
    }
    selection = {row["id"]: row for row in read_rows(folder / "selection.parquet")}
    unknown = {"prompt": "", "completion": "", "selected": False, "reason": ""}
    return [
        {**unknown, **words.get(row["id"], {}), **selection.get(row["id"], {}), **row}
        for row in read_rows(folder / "scores.parquet")
    ]


def read_score_constants(folder: Path) -> dict[str, float]:
    """Return the numbers that went into all scores alike: "alpha" and "constant", if any did."""
    metadata = pq.read_schema(folder / "scores.parquet").metadata or {}
    if metadata.get(b"alpha", b"auto") == b"auto":
        return {}
    return {name: float(metadata[name.encode()]) for name in ("alpha", "constant")}


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file that appears whole or not at all; without indent, on one line."""
    part = path.with_name(path.name + ".part")
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> Any:
    """The JSON in a file, or an empty mapping if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
