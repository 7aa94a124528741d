"""Methods against plain fine-tuning, and what is claimed of them, from the answers of runs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from letgo.data.splits import NEUTRAL
from letgo.errors import InputError
from letgo.evaluation.asking import VALIDATION
from letgo.evaluation.statistics import paired_difference, paired_mean, perplexity, verdict
from letgo.study.effects import Mean, effect, holm, mean_of, relative
from letgo.study.plan import SFT, Cell, Study, settings_of

RETURNED = "returned"
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
    known: Known,
    task: str,
    forget: str,
    method: str,
    seeds: list[int],
    figure: int,
    model: str = "lwf",
) -> np.ndarray | None:
    """A figure of a model by (seed, example); None where a seed is missing.

    Args:
        known: finished cells.
        task, forget, method: of the cells.
        seeds: rows.
        figure: 0 for right or wrong, 1 for the NLL of the right answer.
        model: "lwf", the method's; "sft" or "base", which stand beside it and have its settings;
            "returned", the one that the run returned, the method's or plain fine-tuning's.

    Raises:
        InputError: the seeds were asked different examples.
    """
    rows, asked = [], None
    for seed in seeds:
        cell = known.get(Cell(task, forget, method, seed))
        if cell is None:
            return None
        which = cell.returned if model == RETURNED else model
        answers = cell.answers.get(which or "", {}).get("learn")
        if answers is None:
            return None  # with an optimum of another kind there is no SFT
        if asked not in (None, sorted(answers)):
            raise InputError(f"the runs of {task} were asked different examples: give learn_test")
        asked = sorted(answers)
        rows.append([answers[example][figure] for example in asked])
    return np.array(rows, float) if rows else None  # an NLL that is not known is no number


def _seeds(known: Mapping[Cell, Any], task: str, forget: str, method: str) -> list[int]:
    return sorted(c.seed for c in known if c[:3] == (task, forget, method))


def effects_of(study: Study, known: Known) -> list[dict[str, Any]]:
    """Every method against the SFT beside it, in accuracy and in the NLL of right answers.

    P-values are corrected over all comparisons of the same settings, over tasks and sets.
    """
    found = []
    families: dict[str, list[dict[str, Any]]] = {}
    for forget in study.forget:
        for method, says in study.methods.items():
            for task in study.learn:
                seeds = _seeds(known, task, forget, method)
                row: dict[str, Any] = {"task": task, "forget": forget, "method": method}
                for figure, name in enumerate(("accuracy", "reference_nll")):
                    ours, theirs = (
                        table(known, task, forget, method, seeds, figure, model)
                        for model in ("lwf", SFT)
                    )
                    if ours is not None and theirs is not None:
                        kept = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
                        row[name] = effect(ours[:, kept], theirs[:, kept])
                if "accuracy" in row:
                    found.append({**row, **_beside(known, task, forget, method, seeds)})
                    families.setdefault(settings_of(says), []).append(found[-1])
    for family in families.values():
        for name in ("accuracy", "reference_nll"):
            corrected = holm([row[name]["p_value"] for row in family])
            for row, p in zip(family, corrected, strict=True):
                row[name]["p_holm"] = p
    return found


def _beside(known: Known, task: str, forget: str, method: str, seeds: list[int]) -> dict[str, Any]:
    """What else became of these runs: what is left of what the model knew, and what was returned.

    Accuracy is over all forgetting sets with references together; means are over seeds.
    """
    cells = [known[Cell(task, forget, method, seed)] for seed in seeds]
    left: dict[str, dict[str, float]] = {"accuracy": {}, "perplexity": {}}
    for model in ("base", SFT, "lwf"):
        sets = [
            (name, by_example)
            for cell in cells
            for name, by_example in cell.answers.get(model, {}).items()
        ]
        right = [
            row[0]
            for name, rows in sets
            if name.startswith("forget:")
            for row in rows.values()
            if row[0] is not None
        ]
        nll = np.array(
            [row[1] for name, rows in sets if name == NEUTRAL for row in rows.values()], float
        )
        if right:
            left["accuracy"][model] = float(np.mean(right))
        if len(nll) and np.isfinite(nll).all():
            left["perplexity"][model] = perplexity(nll)
    return {"forgotten": left, "returned_lwf": sum(cell.returned == "lwf" for cell in cells)}


def claim_of(study: Study, known: Known, claim: dict[str, Any]) -> dict[str, Any]:
    """One comparison over all tasks, on the seeds that both methods have."""
    method, baseline, forget = claim["method"], claim["baseline"], claim["forget"]
    chosen = claim.get("returned", False)
    ours_is = RETURNED if chosen else "lwf"
    beside = baseline in ("base", SFT)
    tasks: dict[str, dict[str, Any]] = {}
    ratios: list[Mean] = []
    for task in study.learn:
        seeds = set(_seeds(known, task, forget, method))
        if not beside:
            seeds &= set(_seeds(known, task, forget, baseline))
        ours, theirs = (
            table(known, task, forget, which, sorted(seeds), 0, model)
            for which, model in (
                (method, ours_is),
                (method, baseline) if beside else (baseline, ours_is),
            )
        )
        if ours is None or theirs is None:
            continue
        tasks[task] = effect(ours, theirs)
        if ratio := relative(ours, theirs):
            ratios.append(ratio)
    corrected = holm([figures["p_value"] for figures in tasks.values()])
    for figures, p in zip(tasks.values(), corrected, strict=True):
        figures["p_holm"] = p
    mean = mean_of(ratios) if ratios else None
    return {
        "method": method,
        "baseline": baseline,
        "setting": forget,
        "returned": chosen,
        "tasks": tasks,
        "mean_relative": mean.value if mean else None,
        "mean_ci95": mean.interval() if mean else None,
    }
