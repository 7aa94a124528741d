"""From the files of finished cells to `results.json`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from letgo.data.splits import NEUTRAL
from letgo.evaluation.statistics import accuracy, perplexity
from letgo.run.folder import read_json
from letgo.study.comparisons import Finished, claim_of, effects_of, returned
from letgo.study.figures import Curves
from letgo.study.mechanism import mechanism
from letgo.study.plan import Cell, Study
from letgo.study.runner import answers_of, is_done

DIGITS = 9  # beyond them, two machines may differ


def read_cells(root: Path, study: Study) -> dict[Cell, dict[str, Any]]:
    """The files of a study's finished cells."""
    return {c: read_json(answers_of(root, c)) for c in study.cells() if is_done(root, c)}


def collect(
    files: Mapping[Cell, dict[str, Any]], study: Study, failed: Mapping[str, str]
) -> dict[str, Any]:
    """All figures of a study.

    Args:
        files: as `read_cells`.
        study: what it says.
        failed: of cells that broke, by name, what went wrong.

    Raises:
        InputError: runs of one task were asked different examples.
    """
    cells = study.cells()
    known = {c: Finished(file["answers"], returned(file["answers"])) for c, file in files.items()}
    return rounded(
        {
            "cells": {cell.name: _cell(known.get(cell), failed.get(cell.name)) for cell in cells},
            "effects": [
                {**row, "mechanism": _mechanism(study, files, row)}
                for row in effects_of(study, known)
            ],
            "claims": {name: claim_of(study, known, claim) for name, claim in study.claims.items()},
            "made_with": made_with([file.get("provenance", {}) for file in files.values()]),
        }
    )


def made_with(origins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The devices and versions that runs were made with, and how many runs, most first.

    Args:
        origins: of every run the `provenance` of its `config.yaml`, or what is known of it.
    """
    kinds = Counter(
        (origin.get("device"), tuple(sorted(origin.get("versions", {}).items())))
        for origin in origins
    )
    return [
        {"device": device, "versions": dict(versions), "runs": runs}
        for (device, versions), runs in kinds.most_common()
    ]


def _cell(finished: Finished | None, error: str | None) -> dict[str, Any]:
    """One run: what base, SFT and the method got right, of the task and of what was forgotten."""
    if finished is None:
        return {"status": "failed", "error": error} if error else {"status": "missing"}
    figures: dict[str, dict[str, Any]] = {}
    for model, sets in finished.answers.items():
        for name, by_example in sets.items():
            right, nll = np.array(list(by_example.values()), float).T
            if name == NEUTRAL:
                if np.isfinite(nll).all():
                    figures.setdefault(name, {})[model] = {"perplexity": perplexity(nll)}
                continue
            if np.isnan(right).all():
                continue  # prompts without right answers, asked to be looked at
            figures.setdefault(name, {})[model] = {
                **accuracy([bool(r) for r in right]),
                "reference_nll": float(np.nanmean(nll)),
            }
    return {"status": "done", "sets": figures, "returned": finished.returned}


def _mechanism(
    study: Study, files: Mapping[Cell, dict[str, Any]], row: Mapping[str, Any]
) -> dict[str, Any]:
    """Why, of the runs of one task, forgetting set and method."""
    cells = [cell for cell in files if cell[:3] == (row["task"], row["forget"], row["method"])]
    flags = study.flags(cells[0])
    one_by_one = flags.get("unlearning_interval") != 0 and (
        flags.get("unlearning_schedule") != "early"
    )
    found = mechanism([files[cell] for cell in cells])
    return found if one_by_one else {**found, "first_step": None}  # there is no such step


def curves(files: Mapping[Cell, dict[str, Any]]) -> list[Curves]:
    """Learning losses of the finished runs that logged any."""
    found = []
    for cell, file in files.items():
        (steps, ours), (_, theirs) = (file["curves"][which] for which in ("method", "sft"))
        if ours and theirs:  # with an optimum of another kind there is no SFT
            found.append(Curves(f"{cell.task}, {cell.forget}, {cell.method}", steps, theirs, ours))
    return found


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Figures with so many significant digits, so that another machine finds the same."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def differences(told: Any, found: Any, where: str = "") -> list[str]:
    """Where two results disagree, as paths of keys."""
    if isinstance(told, dict) and isinstance(found, dict):
        return [
            line
            for key in {**told, **found}
            for line in differences(told.get(key), found.get(key), f"{where}.{key}")
        ]
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        pairs = enumerate(zip(told, found, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    return (
        [] if told == found else [f"{where.lstrip('.')}: {told} in the file, {found} by the cells"]
    )
