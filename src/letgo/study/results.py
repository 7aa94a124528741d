"""From the files of finished cells to `results.json`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from letgo.data import NEUTRAL
from letgo.errors import InputError
from letgo.evaluate import VALIDATION
from letgo.stages import read_json
from letgo.statistics import accuracy, paired_difference, paired_mean, verdict
from letgo.study.cells import answers_of, is_done
from letgo.study.effects import Mean, effect, holm, mean_of, relative
from letgo.study.mechanism import mechanism
from letgo.study.pictures import Curve
from letgo.study.plan import SFT, Cell, Study

DIGITS = 9  # beyond them, two machines may differ
# Of one model on one set: by example, right or wrong and the NLL of the right answer.
Answers = dict[str, list[float]]
# By model and set.
Models = dict[str, dict[str, Answers]]


class Finished(NamedTuple):
    """What is known of a finished cell.

    Attributes:
        answers: by model and set.
        returned: which model the run returned, "sft" or "lwf"; None without a validation set.
    """

    answers: Models
    returned: str | None


Known = Mapping[Cell, Finished]


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
    return rounded({
        "cells": {cell.name: _cell(known.get(cell), failed.get(cell.name)) for cell in cells},
        "effects": [
            {**row, "mechanism": mechanism([files[cell] for cell in known if cell[:3] == (
                row["task"], row["forget"], row["method"])])}
            for row in _effects(study, known)
        ],
        "claims": {name: _claim(study, known, claim) for name, claim in study.claims.items()},
    })  # fmt: skip


def _cell(finished: Finished | None, error: str | None) -> dict[str, Any]:
    """One run: what base, SFT and the method got right, of the task and of what was forgotten."""
    if finished is None:
        return {"status": "failed", "error": error} if error else {"status": "missing"}
    figures: dict[str, dict[str, Any]] = {}
    for model, sets in finished.answers.items():
        for name, by_example in sets.items():
            right, nll = np.array(list(by_example.values()), float).T
            if name != NEUTRAL and np.isnan(right).all():
                continue  # prompts without right answers, asked to be looked at
            mean = float(np.nanmean(nll))
            figures.setdefault(name, {})[model] = (
                {"perplexity": math.exp(mean)} if name == NEUTRAL
                else {**accuracy([bool(r) for r in right]), "reference_nll": mean}
            )  # fmt: skip
    return {"status": "done", "sets": figures, "returned": finished.returned}


def returned(answers: Models) -> str | None:
    """Which model the run returned, "sft" or "lwf", by its validation set; None without one."""
    ours, theirs = (answers.get(model, {}).get(VALIDATION) for model in ("lwf", SFT))
    if not ours or not theirs:
        return None
    pairs = [(ours[name], theirs[name]) for name in ours]
    difference = paired_difference([bool(a[0]) for a, _ in pairs], [bool(b[0]) for _, b in pairs])
    nll = np.array([(a[1], b[1]) for a, b in pairs], float)
    return verdict({**difference, "reference_nll": paired_mean(*nll.T)})


def table(
    known: Known, task: str, forget: str, method: str, seeds: list[int], figure: int,
    chosen: bool = False,
) -> np.ndarray | None:  # fmt: skip
    """A figure of a method (or "base", "sft") by (seed, example); None where a seed is missing.

    Args:
        known: finished cells.
        task, forget, method: of the cells; "base" and "sft" stand beside every method.
        seeds: rows.
        figure: 0 for right or wrong, 1 for the NLL of the right answer.
        chosen: take the model that the run returned, the method's or plain fine-tuning's.

    Raises:
        InputError: the seeds were asked different examples.
    """
    rows, asked = [], None
    for seed in seeds:
        beside = method in ("base", SFT)
        cell = next((c for c in known if (c.task, c.seed) == (task, seed)
                     and (beside or (c.forget, c.method) == (forget, method))), None)  # fmt: skip
        if cell is None:
            return None
        model = method if beside else known[cell].returned if chosen else "lwf"
        answers = known[cell].answers.get(model or "", {}).get("learn")
        if answers is None:
            return None  # with an optimum of another kind there is no SFT
        if asked not in (None, sorted(answers)):
            raise InputError(f"the runs of {task} were asked different examples: give learn_test")
        asked = sorted(answers)
        rows.append([answers[example][figure] for example in asked])
    return np.array(rows, float) if rows else None  # an NLL that is not known is no number


def _seeds(known: Mapping[Cell, Any], task: str, forget: str, method: str) -> list[int]:
    return sorted(c.seed for c in known if c[:3] == (task, forget, method))


def _effects(study: Study, known: Known) -> list[dict[str, Any]]:
    """Every method against SFT, in accuracy and in the NLL of right answers."""
    found = []
    for forget in study.forget:
        for method in study.methods:
            family = []
            for task in study.learn:
                seeds = _seeds(known, task, forget, method)
                row: dict[str, Any] = {"task": task, "forget": forget, "method": method}
                for figure, name in enumerate(("accuracy", "reference_nll")):
                    ours, theirs = (table(known, task, forget, which, seeds, figure)
                                    for which in (method, SFT))  # fmt: skip
                    if ours is not None and theirs is not None:
                        kept = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
                        row[name] = effect(ours[:, kept], theirs[:, kept])
                if "accuracy" in row:
                    family.append({**row, **_beside(known, task, forget, method, seeds)})
            for name in ("accuracy", "reference_nll"):
                corrected = holm([row[name]["p_value"] for row in family])
                for row, p in zip(family, corrected, strict=True):
                    row[name]["p_holm"] = p
            found += family
    return found


def _beside(
    known: Known, task: str, forget: str, method: str, seeds: list[int]
) -> dict[str, Any]:  # fmt: skip
    """What else became of these runs: what is left of what the model knew, and what was returned.

    Accuracy is over all forgetting sets with references together; means are over seeds.
    """
    cells = [known[Cell(task, forget, method, seed)] for seed in seeds]
    left: dict[str, dict[str, float]] = {"accuracy": {}, "perplexity": {}}
    for model in ("base", SFT, "lwf"):
        sets = [(name, by_example) for cell in cells
                for name, by_example in cell.answers.get(model, {}).items()]  # fmt: skip
        right = [row[0] for name, rows in sets if name.startswith("forget:")
                 for row in rows.values() if row[0] is not None]  # fmt: skip
        nll = [row[1] for name, rows in sets if name == NEUTRAL for row in rows.values()]
        if right:
            left["accuracy"][model] = float(np.mean(right))
        if nll:
            left["perplexity"][model] = math.exp(float(np.mean(nll)))
    return {"forgotten": left, "returned_lwf": sum(cell.returned == "lwf" for cell in cells)}


def _claim(study: Study, known: Known, claim: dict[str, Any]) -> dict[str, Any]:
    """One comparison over all tasks, on the seeds that both methods have."""
    method, baseline, forget = claim["method"], claim["baseline"], claim["forget"]
    chosen = claim.get("returned", False)
    tasks: dict[str, dict[str, Any]] = {}
    ratios: list[Mean] = []
    for task in study.learn:
        seeds = set(_seeds(known, task, forget, method))
        if baseline not in ("base", SFT):
            seeds &= set(_seeds(known, task, forget, baseline))
        ours, theirs = (table(known, task, forget, which, sorted(seeds), 0, chosen)
                        for which in (method, baseline))  # fmt: skip
        if ours is None or theirs is None:
            continue
        tasks[task] = effect(ours, theirs)
        if ratio := relative(ours, theirs):
            ratios.append(ratio)
    corrected = holm([figures["p_value"] for figures in tasks.values()])
    for figures, p in zip(tasks.values(), corrected, strict=True):
        figures["p_holm"] = p
    mean = mean_of(ratios) if ratios else None
    return {"method": method, "baseline": baseline, "setting": forget, "returned": chosen,
            "tasks": tasks,
            "mean_relative": mean.value if mean else None,
            "mean_ci95": mean.interval() if mean else None}  # fmt: skip


def curves(files: Mapping[Cell, dict[str, Any]]) -> list[Curve]:
    """Learning losses of the finished runs; plain fine-tuning's once per task and seed."""
    found: dict[tuple[str, str, int], Curve] = {}
    for cell, file in files.items():
        for method, which in ((SFT, "sft"), (cell.method, "method")):
            forget = "" if method == SFT else cell.forget
            key = cell.task, f"{method} {forget}", cell.seed
            found[key] = Curve(cell.task, method, *file["curves"][which])
    return list(found.values())


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
            line for key in {**told, **found}
            for line in differences(told.get(key), found.get(key), f"{where}.{key}")
        ]  # fmt: skip
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        pairs = enumerate(zip(told, found, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    return (
        [] if told == found else [f"{where.lstrip('.')}: {told} in the file, {found} by the cells"]
    )
