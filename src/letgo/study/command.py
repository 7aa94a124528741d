"""`letgo study`: run a grid, or say what it would be, or check its results."""

import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from letgo.errors import InputError, first_line
from letgo.run.folder import write_json
from letgo.run.provenance import git_revision, versions
from letgo.study.figures import draw
from letgo.study.markdown import page
from letgo.study.plan import Study, read_study
from letgo.study.results import collect, curves, differences, read_cells


def write_results(root: Path, study: Study, failed: dict[str, str]) -> dict[str, Any]:
    """Write `results.json`, `results.md` and pictures of what is done."""
    files = read_cells(root, study)
    results = {
        "study": asdict(study),
        **collect(files, study, failed),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    validate(results)
    write_json(root / "results.json", results)
    (root / "results.md").write_text(page(results), encoding="utf-8")
    draw(results, curves(files), root)
    return results


def validate(results: dict[str, Any]) -> None:
    """Hold results against their schema.

    Raises:
        InputError: names the place where they are of another form.
    """
    schema = json.loads(resources.files("letgo.study").joinpath("results.schema.json").read_text())
    try:
        jsonschema.validate(results, schema)
    except jsonschema.ValidationError as error:
        raise InputError(f"results.json: {error.json_path}: {error.message[:200]}") from error


def check(file: Path) -> None:
    """Compute every figure of `results.json` again from the files beside it.

    Raises:
        InputError: a figure is another one than in the file.
    """
    try:
        told_results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--check: cannot read {file}: {error}") from error
    validate(told_results)
    study = read_study(file.with_name("study.yaml"))
    failed = {
        name: cell.get("error") or "-"
        for name, cell in told_results["cells"].items()
        if cell["status"] == "failed"
    }
    try:
        again = {"study": asdict(study), **collect(read_cells(file.parent, study), study, failed)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"--check: {file.parent / 'cells'} has a file that is no run's: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    wrong = [
        line for key, value in again.items() for line in differences(told_results[key], value, key)
    ]
    if wrong:
        raise InputError(f"--check: {len(wrong)} figures differ from the cells', first {wrong[0]}")
    if file.with_suffix(".md").read_text(encoding="utf-8") != page(told_results):
        raise InputError(f"--check: {file.with_suffix('.md')} is not what {file.name} says")
    count = sum(cell["status"] == "done" for cell in told_results["cells"].values())
    print(f"{file}: every figure is that of its {count} runs")
