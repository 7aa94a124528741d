"""Effects of methods against the SFT baseline, and claims, from the answers of finished runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, product
from typing import NamedTuple

import numpy as np

from letgo.data.splits import NEUTRAL
from letgo.errors import InputError
from letgo.evaluation.effects import Mean, effect, holm, mean_of, relative, worth
from letgo.evaluation.outcomes import FIGURES, KEPT, LEARNED, LET_GO, Figure, outcomes
from letgo.evaluation.statistics import perplexity
from letgo.evaluation.verdict import judge
from letgo.run.folder import Row
from letgo.run.inputs import VALIDATION
from letgo.study.cells import Answers, Models
from letgo.study.plan import SFT, Cell, Study, settings_of

RETURNED = "returned"
# Keys of results.json: the mean of a metric is named like it, but for this one.
MEAN_NAMES = {"correct": "accuracy"}
# Metrics that a set has for all answers or for none.
WHOLE = {f.column for figures in FIGURES.values() for f in figures if f.is_share or f.is_score}


class Finished(NamedTuple):
    """The answers of a finished cell, and the model that its run returned (`returned`)."""

    answers: Models
    returned: str | None


def values_of(answers: Answers, metric: str) -> np.ndarray:
    """A metric, example by example in the order of ids: (examples,); NaN where it is missing."""
    return np.array(answers[metric], float)[np.argsort(answers["ids"])]


def returned(answers: Models, margin: float) -> str | None:
    """The model that a run returned by its validation sets, "sft" or "lwf"; None without them.

    Args:
        margin: `--margin` of the run, percentage points.
    """
    validation = outcomes(_validation_rows(answers), validation=True)
    if "lwf_minus_sft" not in validation.get(LEARNED, {}):
        return None
    return judge(validation, margin).model


def _validation_rows(answers: Models) -> list[Row]:
    """The rows of `answers.parquet` that decide, without their texts."""
    return [
        {"model": model, "set": name, "id": id, **_metrics(columns, number)}
        for model, sets in answers.items()
        for name, columns in sets.items()
        if name.startswith(VALIDATION)
        for number, id in enumerate(columns["ids"])
    ]


def _metrics(columns: Answers, number: int) -> Row:
    """The metrics of one answer as the run had them: a cell file has null for NaN."""
    row = {name: values[number] for name, values in columns.items() if name != "ids"}
    return {m: math.nan if v is None and m not in WHOLE else v for m, v in row.items()}


def table(
    finished: Mapping[Cell, Finished], cells: Sequence[Cell], metric: str, model: str = "lwf"
) -> np.ndarray | None:
    """A metric of one model on the test set.

    Args:
        cells: finished cells of one task, forgetting set and method, one per seed.
        metric: a column of answers.parquet, e.g. "correct".
        model: "lwf", "sft" or "base", or "returned" for the model that each run returned.

    Returns:
        (seeds, examples), NaN where a value is missing; None if a run has no such model or metric.

    Raises:
        InputError: the runs were evaluated on different examples.
    """
    rows = []
    ids: list[str] | None = None
    for cell in cells:
        name = finished[cell].returned if model == RETURNED else model
        answers = finished[cell].answers.get(name or "", {}).get("learn", {})
        if metric not in answers:  # e.g. no "sft" where --optimum is not full
            return None
        if ids is not None and ids != sorted(answers["ids"]):
            raise InputError(
                f"the runs of {cell.task} were evaluated on different examples; set learn_test"
            )
        ids = sorted(answers["ids"])
        rows.append(values_of(answers, metric))
    return np.array(rows) if rows else None


def effects_of(study: Study, finished: Mapping[Cell, Finished]) -> list[Row]:
    """Every method against the SFT baseline of the same runs, in every metric and outcome.

    P-values are corrected over all comparisons of the same settings, over tasks and sets.
    """
    rows: list[Row] = []
    families: dict[str, list[Row]] = {}
    for forget, method, task in product(study.forget, study.methods, study.learn):
        cells = _cells(finished, task, forget, method)
        effects = _effects(finished, cells)
        if learned := worth(effects):
            row: Row = {"task": task, "forget": forget, "method": method, **effects}
            if held_out := _held_out(finished, cells):
                row["outcomes"] = {LEARNED: learned, **held_out}
            rows.append({**row, **_forgotten([finished[cell] for cell in cells])})
            family = families.setdefault(settings_of(study.methods[method]), [])
            family.append(effects | held_out)
    for family in families.values():
        for name in {name for effects in family for name in effects}:
            _add_corrected([effects[name] for effects in family if name in effects])
    return rows


def _cells(finished: Collection[Cell], task: str, forget: str, method: str) -> list[Cell]:
    """The finished cells of one task, forgetting set and method, by seed."""
    return sorted(cell for cell in finished if cell[:3] == (task, forget, method))


def _effects(finished: Mapping[Cell, Finished], cells: Sequence[Cell]) -> dict[str, Row]:
    """The effect in every metric that the runs have, by the name of its mean."""
    effects = {}
    answers = finished[cells[0]].answers.get("lwf", {}).get("learn", {}) if cells else {}
    for metric in [name for name in answers if name != "ids"]:
        ours, theirs = (table(finished, cells, metric, model) for model in ("lwf", SFT))
        if ours is None or theirs is None:
            continue
        measured = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
        if measured.any():
            name = MEAN_NAMES.get(metric, metric)
            effects[name] = effect(ours[:, measured], theirs[:, measured])
    return effects


def _held_out(finished: Mapping[Cell, Finished], cells: Sequence[Cell]) -> dict[str, Row]:
    """The effects on what is let go and what is kept, by outcome; empty if it was not measured."""
    effects = {}
    for outcome in (LET_GO, KEPT):
        figure, *_ = FIGURES[outcome]
        ours, theirs = (
            [_by_prompt(finished[cell].answers.get(model, {}), figure) for cell in cells]
            for model in ("lwf", SFT)
        )
        # Prompts that are also learning prompts are left out, and these may depend on the seed.
        prompts = sorted(set.intersection(*map(set, [*ours, *theirs])))
        if prompts:
            both = (
                [[run[prompt] for prompt in prompts] for run in runs] for runs in (ours, theirs)
            )
            first, second = (np.array(values, float) for values in both)
            effects[outcome] = effect(first, second)
    return effects


def _by_prompt(sets: Mapping[str, Answers], figure: Figure) -> dict[tuple[str, str], float]:
    """The measured values of a figure by set and id, of one run's model on its test prompts."""
    return {
        (name, id): value
        for name, answers in sets.items()
        if name.startswith(figure.sets) and figure.column in answers
        for id, value in zip(answers["ids"], answers[figure.column], strict=True)
        if value is not None
    }


def _add_corrected(effects: Collection[Row]) -> None:
    """Add `p_holm` to effects, their p-values corrected for the number of effects."""
    corrected = holm([one["p_value"] for one in effects])
    for one, p_value in zip(effects, corrected, strict=True):
        one["p_holm"] = p_value


def _forgotten(runs: Sequence[Finished]) -> Row:
    """Accuracy on forgetting sets, perplexity of neutral text, and number of runs returning LWF.

    Accuracy is over all forgetting sets with references together; means are over seeds.
    """
    forgotten: dict[str, dict[str, float]] = {"accuracy": {}, "perplexity": {}}
    for model in ("base", SFT, "lwf"):
        sets = [one for run in runs for one in run.answers.get(model, {}).items()]
        forget = [a.get("correct", []) for name, a in sets if name.startswith("forget:")]
        correct = [value for value in chain(*forget) if value is not None]
        neutral = [a["reference_nll"] for name, a in sets if name == NEUTRAL]
        nll = np.array(list(chain(*neutral)), float)
        if correct:
            forgotten["accuracy"][model] = float(np.mean(correct))
        if len(nll) and np.isfinite(nll).all():
            forgotten["perplexity"][model] = perplexity(nll)
    return {"forgotten": forgotten, "returned_lwf": sum(run.returned == "lwf" for run in runs)}


def claim_of(study: Study, finished: Mapping[Cell, Finished], claim: Row) -> Row:
    """One comparison in accuracy or score over all tasks, on the seeds that both methods have."""
    method, baseline, forget = claim["method"], claim["baseline"], claim["forget"]
    model = RETURNED if claim.get("returned", False) else "lwf"
    baseline_is_in_run = baseline in ("base", SFT)  # each run evaluates these models, too
    tasks: dict[str, Row] = {}
    ratios: list[Mean] = []
    for task in study.learn:
        cells = _cells(finished, task, forget, method)
        metric = "score" if "score" in _effects(finished, cells) else "correct"
        if baseline_is_in_run:
            theirs = table(finished, cells, metric, baseline)
        else:
            cells = [cell for cell in cells if cell._replace(method=baseline) in finished]
            baseline_cells = [cell._replace(method=baseline) for cell in cells]
            theirs = table(finished, baseline_cells, metric, model)
        ours = table(finished, cells, metric, model)
        if ours is None or theirs is None:
            continue
        tasks[task] = effect(ours, theirs)
        if ratio := relative(ours, theirs):
            ratios.append(ratio)
    _add_corrected(tasks.values())
    mean = mean_of(ratios) if ratios else None
    return {
        "method": method,
        "baseline": baseline,
        "setting": forget,
        "returned": model == RETURNED,
        "tasks": tasks,
        "mean_relative": mean.value if mean else None,
        "mean_ci95": mean.interval() if mean else None,
    }
