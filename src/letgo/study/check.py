"""`letgo study --check`: recompute the results of a study from its cells' files."""

import json
from dataclasses import asdict
from pathlib import Path

from letgo.errors import InputError, first_line
from letgo.run.folder import Row
from letgo.study.cells import read_cells
from letgo.study.markdown import page
from letgo.study.plan import Study, read_study
from letgo.study.results import collect, validate


def check(file: Path) -> int:
    """Recompute every number of `results.json` from the cells' files in its folder.

    Returns:
        the number of finished runs.

    Raises:
        InputError: a number differs, or `results.md` does not match `results.json`.
    """
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--check: cannot read {file}: {error}") from error
    validate(results)
    again = _recompute(file.parent, read_study(file.with_name("study.yaml")), results)
    stored, computed = _leaves({key: results[key] for key in again}), _leaves(again)
    wrong = [path for path in {**stored, **computed} if stored.get(path) != computed.get(path)]
    if wrong:
        raise InputError(
            f"--check: {len(wrong)} values do not follow from the cells' files, first {wrong[0]}: "
            f"{stored.get(wrong[0])} in {file.name}, recomputed {computed.get(wrong[0])}"
        )
    if file.with_suffix(".md").read_text(encoding="utf-8") != page(results):
        raise InputError(f"--check: {file.with_suffix('.md')} does not match {file.name}")
    return sum(cell["status"] == "done" for cell in results["cells"].values())


def _recompute(root: Path, study: Study, results: Row) -> Row:
    cells = results["cells"].items()
    failed = {name: cell.get("error") or "-" for name, cell in cells if cell["status"] == "failed"}
    try:
        return {"study": asdict(study), **collect(read_cells(root, study), study, failed)}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"--check: {root / 'cells'} has a file that letgo did not write: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _leaves(value: object, path: str = "") -> dict[str, str]:
    """All numbers and texts in a JSON value, as text, by their path of keys."""
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: repr(value)}
    return {leaf: text for key, item in items for leaf, text in _leaves(item, key).items()}
