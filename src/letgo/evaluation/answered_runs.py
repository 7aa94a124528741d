"""The answers of a finished run, or of the same run with several seeds, for a comparison."""

from collections import Counter
from pathlib import Path

import numpy as np

from letgo.errors import InputError
from letgo.evaluation.asking import LABELS
from letgo.evaluation.comparison import Key, Name, Side, Values
from letgo.evaluation.outcomes import FIGURES, Figure
from letgo.run.folder import (
    ANSWERS,
    HELD_OUT,
    METRICS,
    Row,
    find_runs,
    read_config,
    read_json,
    read_table,
    require,
)

RETURNED = "returned"  # the model in `model/`
MODELS = (*LABELS, RETURNED)
TEXTS = ["model", "set", "id", "prompt", "reference"]


def read_runs(folder: Path, model: str) -> Side:
    """The answers of the runs in or below a folder to their test and held-out prompts.

    Args:
        folder: of a run, or of several that differ in their seeds.
        model: one of `MODELS`.

    Raises:
        InputError: there is no run, it is not finished, it has no such model, or two runs have the
            same seed.
    """
    runs = find_runs(folder)
    if not runs:
        raise InputError(f"no run of letgo in {folder}; name a run folder or a JSONL file")
    side, answered, folders = Side(str(folder), ""), set(), dict[str, Path]()
    for run in runs:
        seed = str(read_config(run).get("seed"))
        if seed in folders:
            raise InputError(
                f"{folders[seed]} and {run} both have the seed {seed}; name one of them, or a "
                f"folder of runs that differ in their seeds"
            )
        folders[seed] = run
        name = _model(run, model)
        answered.add(LABELS[name])
        side.seeds[seed], figures = _figures(run, name)
        side.figures |= figures
    seeds = f"seed{'s' * (len(side.seeds) > 1)} {', '.join(side.seeds)}"
    side.label = f"{folder}, {' or '.join(sorted(answered))}, {seeds}"
    return side


def _model(run: Path, model: str) -> str:
    """The name of a model in `answers.parquet`."""
    if model != RETURNED:
        return model
    verdict = read_json(require(run, METRICS)).get("verdict")
    return "sft" if verdict == "sft" else "lwf"


def _figures(run: Path, model: str) -> tuple[dict[Name, Values], dict[Name, Figure]]:
    """The values of every figure of the outcomes on test prompts, and the figures."""
    table = read_table(require(run, ANSWERS))
    columns = {f.column for figures in FIGURES.values() for f in figures} & {*table.column_names}
    rows = table.select([*TEXTS, *sorted(columns)]).to_pylist()
    rows = [row for row in rows if row["model"] == model]
    if not rows:
        raise InputError(f"{run} has no answers of {LABELS[model]}; compare another of its models")
    keys = _keys(run, rows)
    values: dict[Name, Values] = {}
    figures: dict[Name, Figure] = {}
    for outcome, group in FIGURES.items():
        for figure in group:
            found = {
                key: float(row[figure.column])
                for key, row in zip(keys, rows, strict=True)
                if row["set"].startswith(figure.sets) and _is_measured(row.get(figure.column))
            }
            if found:
                values[outcome, figure.name], figures[outcome, figure.name] = found, figure
    return values, figures


def _is_measured(value: object) -> bool:
    return isinstance(value, bool | int | float) and bool(np.isfinite(value))


def _keys(run: Path, rows: list[Row]) -> list[Key]:
    """What tells an answer's question apart: set, prompt and right answer, or else the text.

    Numbers of records do not: they differ between two files with the same questions. A question
    that stands there several times has a number of its own.
    """
    texts: dict[tuple[str, str], str] = {}
    if any(not row["prompt"] for row in rows) and (run / HELD_OUT.name).exists():
        held = read_table(require(run, HELD_OUT), ["set", "id", "prompt", "completion"]).to_pylist()
        texts = {(row["set"], row["id"]): row["completion"] for row in held if not row["prompt"]}
    seen: Counter[Key] = Counter()
    keys: list[Key] = []
    for row in rows:
        text = row["prompt"] or texts.get((row["set"], row["id"]), row["id"])
        key: Key = (row["set"], str(text), row["reference"])
        keys.append((*key, str(seen[key])))
        seen[key] += 1
    return keys
