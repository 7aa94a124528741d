"""The texts of a run, and a folder of runs, in the terminal."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from letgo.errors import InputError
from letgo.report.formats import clean, decimal, points, significant
from letgo.review.query import Query, find, holding
from letgo.review.texts import Texts, in_a_line, open_texts
from letgo.run.folder import is_run, read_json


def show(folder: Path, top: int, forget_set: str, expression: str) -> None:
    """Print the texts that would be forgotten first, and whether they are to be.

    Args:
        folder: of the run.
        top: how many.
        forget_set: only of this set; empty for all.
        expression: only texts that hold this regular expression; empty for all.

    Raises:
        InputError: no run, no scores, no such set, or no regular expression.
    """
    texts = open_texts(folder)
    if forget_set and forget_set not in texts.sets:
        raise InputError(f"--set: {folder} has no set {forget_set}; it has {', '.join(texts.sets)}")
    among = holding(texts.table, expression, True) if expression else None
    rows = find(texts, Query(forget_set), among)
    console = Console(highlight=False)
    console.print(summary(texts), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("confidence", justify="right", no_wrap=True)
    for name in ("set", "forget"):
        table.add_column(name, no_wrap=True)
    table.add_column("text", ratio=1)
    for row in texts.table.take(rows[:top]).to_pylist():
        table.add_row(
            significant(row["confidence"], 4), Text(clean(row["forget_set"])), mark(row), _text(row)
        )
    console.print(table)
    if len(rows) > top:
        console.print(f"{len(rows) - top} more; --top N shows them", style="dim")


def summary(texts: Texts) -> str:
    """How many texts are to be forgotten, and by whose will."""
    selected = texts.column("selected").astype(bool)
    person = np.asarray(texts.table["decided_by"].to_pylist()) == "person"
    line = f"{int(selected.sum())} of {len(selected)} texts are to be forgotten"
    line += f" (score: {texts.score})"
    if person.any():
        kept = int((person & ~selected).sum())
        line += f"; a person has put {int((person & selected).sum())} in and {kept} out"
    return line


def mark(row: dict[str, Any]) -> Text:
    """Whether a text is to be forgotten; a star where a person has said so."""
    star = "*" if row["decided_by"] == "person" else ""
    return Text(f"yes{star}", style="green") if row["selected"] else Text(f"no{star}", style="dim")


def _text(row: dict[str, Any]) -> Text:
    return Text(in_a_line(row, 300), overflow="ellipsis", no_wrap=True)


def runs(root: Path) -> None:
    """Print every run below a folder: its verdict, the paired difference, the date.

    Raises:
        InputError: no such folder, or no run in it.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give one that holds runs")
    found = find_runs(root)
    if not found:
        raise InputError(f"no run of letgo below {root}; `letgo run --output_dir` makes one")
    table = Table("run", "verdict", "LWF - SFT, points", "p", "date", box=None, pad_edge=False)
    for folder in found:
        table.add_row(Text(clean(str(folder.relative_to(root)))), *_result(folder))
    Console(highlight=False).print(table)


def find_runs(root: Path) -> list[Path]:
    """Folders of runs at or below a folder, sorted; nothing is looked for inside a run."""
    found = []
    for place, folders, _ in os.walk(root):
        if is_run(Path(place)):
            found.append(Path(place))
            folders.clear()
    return sorted(found)


def _result(folder: Path) -> list[str]:
    metrics = read_json(folder / "metrics.json")
    done = folder / ("metrics.json" if metrics else "config.yaml")
    date = datetime.fromtimestamp(done.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    if not metrics:
        last = list(read_json(folder / "stages.json"))[-1:]
        return [f"unfinished, after {last[0]}" if last else "nothing yet", "", "", date]
    paired = (metrics.get("lwf_minus_sft") or {}).get("learn")
    if not paired:
        return [metrics["verdict"], "", "", date]
    low, high = paired["ci95"]
    difference = f"{points(paired['difference'])} [{points(low)}, {points(high)}]"
    return [metrics["verdict"], difference, decimal(paired["p_value"], 3), date]
