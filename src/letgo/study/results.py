"""`results.json`, `results.md` and figures, from the files of finished cells."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from letgo.data.splits import NEUTRAL
from letgo.errors import InputError
from letgo.evaluation.statistics import accuracy, perplexity, score
from letgo.run.config import RunConfig
from letgo.run.folder import Row, write_json
from letgo.run.provenance import git_revision, versions
from letgo.study.cells import Answers, Models, read_cells
from letgo.study.comparisons import Finished, claim_of, effects_of, returned
from letgo.study.figures import draw
from letgo.study.markdown import page
from letgo.study.mechanism import mechanism
from letgo.study.plan import Cell, Study

DIGITS = 9  # significant ones; the others may differ between two machines


def write_results(root: Path, study: Study, failed: Mapping[str, str]) -> Row:
    """Write `results.json`, `results.md` and figures; arguments and errors as of `collect`."""
    files = read_cells(root, study)
    origin = {"versions": versions(), "git_revision": git_revision()}
    results = {"study": asdict(study), **collect(files, study, failed), **origin}
    validate(results)
    write_json(root / "results.json", results)
    (root / "results.md").write_text(page(results), encoding="utf-8")
    draw(results, files, root)
    return results


def validate(results: Row) -> None:
    """Check results against `results.schema.json`.

    Raises:
        InputError: names the first key that does not match.
    """
    schema = resources.files("letgo.study").joinpath("results.schema.json").read_text()
    try:
        jsonschema.validate(results, json.loads(schema))
    except jsonschema.ValidationError as error:
        raise InputError(f"results.json: {error.json_path}: {error.message[:200]}") from error


def collect(files: Mapping[Cell, Row], study: Study, failed: Mapping[str, str]) -> Row:
    """All statistics of a study, of `read_cells` and the error messages of failed cells by name.

    Raises:
        InputError: runs of one task were evaluated on different examples.
    """
    finished = {c: _finished(study, c, file["answers"]) for c, file in files.items()}
    claims = {name: claim_of(study, finished, claim) for name, claim in study.claims.items()}
    cells = {c.name: _cell(finished.get(c), failed.get(c.name)) for c in study.cells()}
    effects = [
        {**row, "mechanism": _mechanism(study, files, row)} for row in effects_of(study, finished)
    ]
    made = made_with([file.get("provenance", {}) for file in files.values()])
    return rounded({"cells": cells, "effects": effects, "claims": claims, "made_with": made})


def _finished(study: Study, cell: Cell, answers: Models) -> Finished:
    margin = study.flags(cell).get("margin", RunConfig.margin)
    return Finished(answers, returned(answers, float(margin)))


def made_with(origins: Sequence[Row]) -> list[Row]:
    """Devices and versions in the `provenance` of runs, with their number of runs, most first."""
    counts = Counter(
        (origin.get("device"), tuple(sorted(origin.get("versions", {}).items())))
        for origin in origins
    )
    return [
        {"device": device, "versions": dict(versions), "runs": runs}
        for (device, versions), runs in counts.most_common()
    ]


def _cell(finished: Finished | None, error: str | None) -> Row:
    """One run: the means of all metrics by set and model."""
    if finished is None:
        return {"status": "failed", "error": error} if error else {"status": "missing"}
    means: dict[str, dict[str, Row]] = {}
    for model, sets in finished.answers.items():
        for name, answers in sets.items():
            if mean := _means(name, answers):
                means.setdefault(name, {})[model] = mean
    return {"status": "done", "sets": means, "returned": finished.returned}


def _means(name: str, answers: Answers) -> Row:
    """Means of the metrics of one model on one set; none for prompts without references."""
    values = {metric: np.array(answers[metric], float) for metric in answers if metric != "ids"}
    if name == NEUTRAL:
        nll = values["reference_nll"]
        return {"perplexity": perplexity(nll)} if np.isfinite(nll).all() else {}
    values = {m: v for m, v in values.items() if not np.isnan(v).all()}
    scores, correct = values.pop("score", None), values.pop("correct", None)
    if scores is None and correct is None:
        return {}
    means = {m: float(np.nanmean(v)) for m, v in values.items()}
    judged = accuracy([bool(value) for value in correct]) if correct is not None else {}
    return {**judged, **(score(list(scores)) if scores is not None else {}), **means}


def _mechanism(study: Study, files: Mapping[Cell, Row], row: Row) -> Row:
    """The mechanism of one task, forgetting set and method."""
    cells = [cell for cell in files if cell[:3] == (row["task"], row["forget"], row["method"])]
    result = mechanism([files[cell] for cell in cells])
    flags = study.flags(cells[0])
    if flags.get("unlearning_interval") == 0 or flags.get("unlearning_schedule") == "early":
        result["first_step"] = None  # no learning batch follows a single unlearning step
    return result


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """The same JSON value, its floats rounded to significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
