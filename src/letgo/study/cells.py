"""Files of a study's cells: where they lie, and the answers that results are computed from."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from letgo.errors import InputError
from letgo.report.curves import read_curves
from letgo.run import folder as files
from letgo.run.folder import Row
from letgo.study.plan import Cell, Study

# Of one model on one set: "ids", and by metric one value per id, None where it is missing.
Answers = dict[str, list[Any]]
# By model ("base", "sft", "lwf") and set, as `answers.parquet` names them: "learn", "validation",
# "forget:NAME", "keep:NAME", these two also with "validation:" before them, and "neutral".
Models = dict[str, dict[str, Answers]]

LONGEST_NAME = 200  # bytes; a file's name has at most 255, with its ending
RESCORING = ("step", "helpful", "confidence", "learning_norm", "update")  # columns of the log


def folder_of(root: Path, cell: Cell) -> Path:
    """The run folder of a cell."""
    return root / "cells" / _file_name(cell.name)


def _file_name(name: str) -> str:
    """A cell's name as the name of a file: a long one is cut, and a hash keeps it distinct."""
    whole = name.encode("utf-8", "surrogatepass")
    if len(whole) <= LONGEST_NAME and "/" not in name and "\0" not in name:
        return name
    start = whole[:LONGEST_NAME].decode("utf-8", "ignore").replace("/", "_").replace("\0", "_")
    return f"{start}-{hashlib.sha256(whole).hexdigest()[:16]}"


def file_of(root: Path, cell: Cell) -> Path:
    """The cell's file, which results are computed from: it holds no texts and may be published."""
    return folder_of(root, cell).with_name(f"{_file_name(cell.name)}.json")


def log_of(root: Path, cell: Cell) -> Path:
    """The output of the cell's `letgo run`."""
    return folder_of(root, cell).with_name(f"{_file_name(cell.name)}.log")


def is_done(root: Path, cell: Cell) -> bool:
    """Whether the cell's run is finished."""
    return file_of(root, cell).exists()


def write_cell(root: Path, cell: Cell) -> None:
    """Write the file of a finished run, which marks the cell as done."""
    folder = folder_of(root, cell)
    log = files.read_log(folder / files.TRAIN_LOG.name)
    logs = {"sft": files.read_log(folder / files.PROBE.name / files.TRAIN_LOG.name), "method": log}
    stages = files.read_json(folder / "stages.json")
    content = {
        "provenance": files.read_config(folder)["provenance"],
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "curves": {name: read_curves(lines).learning for name, lines in logs.items()},
        "first_keep": _first_keep(log),
        "rescored": [
            {name: line.get(name, line.get(f"unlearn/{name}")) for name in RESCORING}
            for line in log
            if "unlearn/helpful" in line
        ],
        "answers": _columns(files.read_table(folder / files.ANSWERS.name)),
    }
    files.write_json(file_of(root, cell), content, indent=None)


def _first_keep(log: list[Row]) -> int | None:
    """The number of learning steps before the first keep step; None without keep steps."""
    for line in log:
        if "keep/steps" in line:
            return int(line["step"] - line["unlearn/steps"] - line["keep/steps"])
    return None


def _columns(table: pa.Table) -> Models:
    """The numeric columns of answers.parquet, each a metric, by model and set."""
    metrics = [field.name for field in table.schema if pa.types.is_primitive(field.type)]
    answers: Models = {}
    for row in table.select(["model", "set", "id", *metrics]).to_pylist():
        sets = answers.setdefault(row["model"], {})
        columns = sets.setdefault(row["set"], {name: [] for name in ("ids", *metrics)})
        columns["ids"].append(row["id"])
        for metric in metrics:
            columns[metric].append(_plain(row[metric]))
    return answers


def _plain(value: float | bool | None) -> float | int | None:
    """A number as JSON has it: 0 or 1 for a truth value, null for NaN and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, 5) if isinstance(value, float) else int(value)


def read_cells(root: Path, study: Study) -> dict[Cell, Row]:
    """The content of the files of all finished cells.

    Raises:
        InputError: a file has the answers of letgo's first cell files, which had no named metrics.
    """
    contents = {c: files.read_json(file_of(root, c)) for c in study.cells() if is_done(root, c)}
    for cell, content in contents.items():
        if any("ids" not in a for sets in content["answers"].values() for a in sets.values()):
            raise InputError(
                f"{file_of(root, cell)} has metrics without names, as an earlier letgo wrote them; "
                f"convert the files by `python studies/convert_cells.py {root / 'cells'}`"
            )
    return contents
