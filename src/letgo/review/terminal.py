"""`letgo show` and `letgo runs`: the texts of a run and a folder of runs, in the terminal."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from letgo.errors import InputError, printable
from letgo.report.formats import significant
from letgo.report.outcomes import NAMES, headroom_line, short_change
from letgo.review.query import Query, contains, find
from letgo.review.texts import RunTexts, in_a_line, open_texts, require_run
from letgo.run.folder import HEADROOM, METRICS, find_runs, read_json, readable, require

RUNS_NOTE = (
    "LWF - SFT on test prompts: points of right answers, points of old answers, nats per token "
    "from the base model (* its 95 % interval excludes 0)"
)


def show(folder: Path, top: int, forget_set: str, expression: str) -> None:
    """Print the `top` most confident texts of a run, and whether each will be forgotten.

    With `forget_set` and `expression`, only texts of this set that match this regular expression.

    Raises:
        InputError: there are no scores, no such set, or the regular expression is not valid.
    """
    texts = open_texts(folder)
    if forget_set and forget_set not in texts.sets:
        raise InputError(f"--set: {folder} has no set {forget_set}; it has {', '.join(texts.sets)}")
    among = contains(texts.table, expression, regex=True) if expression else None
    rows = find(texts, Query(forget_set), among)
    console = Console(highlight=False)
    console.print(_cell(summary(texts)), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("confidence", justify="right", no_wrap=True)
    for name in ("set", "forget"):
        table.add_column(name, no_wrap=True)
    table.add_column("text", ratio=1)
    for row in texts.table.take(rows[:top]).to_pylist():
        table.add_row(
            significant(row["confidence"], 4),
            _cell(row["forget_set"]),
            mark(row),
            Text(in_a_line(row, 300), overflow="ellipsis", no_wrap=True),
        )
    console.print(table)
    if len(rows) > top:
        console.print(f"{len(rows) - top} more; print them by --top N", style="dim")


def summary(texts: RunTexts) -> str:
    """How many texts will be forgotten, and who decided (score or person)."""
    selected = texts.column("selected").astype(bool)
    person = np.asarray(texts.table["decided_by"].to_pylist()) == "person"
    count = int(selected.sum())
    line = f"{count} of {len(selected)} texts will be forgotten (score: {texts.score})"
    if person.any():
        included, excluded = int((person & selected).sum()), int((person & ~selected).sum())
        line += f"; decided by a person: {included} in, {excluded} out"
    return line


def mark(row: dict[str, Any]) -> Text:
    """Whether a text will be forgotten; a star marks a person's decision."""
    star = "*" if row["decided_by"] == "person" else ""
    return Text(f"yes{star}", style="green") if row["selected"] else Text(f"no{star}", style="dim")


def runs(root: Path) -> None:
    """Print every run in or below a folder: its verdict, its three outcomes, and its date.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give one that contains runs")
    folders = find_runs(root)
    if not folders:
        raise InputError(f"no run of letgo in {root}; make one by `letgo run --output_dir DIR`")
    columns = [name.lower() for name in NAMES.values()]
    table = Table("run", "verdict", *columns, "date", box=None, pad_edge=False)
    problems = []
    for folder in folders:
        try:
            result = _result(folder)
        except (InputError, OSError) as error:  # one damaged run hides no other
            problems.append(_cell(str(error)))
            result = ["damaged"]
        table.add_row(*map(_cell, [str(folder.relative_to(root)), *result]))
    console = Console(highlight=False)
    console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True)
    console.print(RUNS_NOTE, style="dim")


def headroom(folder: Path) -> None:
    """Print how much forgetting could improve the learning task of a run.

    Raises:
        InputError: not a run, or one whose baselines are not evaluated yet.
    """
    require_run(folder)
    file = require(folder, HEADROOM)
    with readable(file):
        line = headroom_line(read_json(file))
    Console(highlight=False).print(_cell(line))


def _cell(text: str) -> Text:
    """Text in one line that neither commands the terminal nor is markup of rich."""
    return Text(printable(" ".join(text.split())))


def _result(folder: Path) -> list[str]:
    metrics = read_json(folder / METRICS.name)
    if metrics:
        require(folder, METRICS)
    newest = folder / (METRICS.name if metrics else "config.yaml")
    date = datetime.fromtimestamp(newest.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    if not metrics:
        last = list(read_json(folder / "stages.json"))[-1:]
        return [f"unfinished, after {last[0]}" if last else "nothing yet", "", "", "", date]
    with readable(folder / METRICS.name):
        outcomes = metrics.get("outcomes") or _learned_only(metrics)
        changes = [short_change(outcomes.get(name, {})) for name in NAMES]
        return [str(metrics["verdict"]), *changes, date]


def _learned_only(metrics: dict[str, Any]) -> dict[str, Any]:
    """The one outcome that a run of an earlier letgo has; none without an SFT baseline."""
    paired = (metrics.get("lwf_minus_sft") or {}).get("learn")
    return {"learned": {"figure": "accuracy", "lwf_minus_sft": paired}} if paired else {}
