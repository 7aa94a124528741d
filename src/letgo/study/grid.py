"""Run the cells of a study, and write its results after each."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from letgo.data.files import atomic_write
from letgo.errors import InputError, requires_extra
from letgo.progress import log
from letgo.study.cells import is_done
from letgo.study.plan import Cell, Study, open_cell, read_study
from letgo.study.results import write_results
from letgo.study.runner import Runner, remove_models


def runner_of(engine: str) -> type[Runner]:
    """The runner of an engine, "processes" or "ray"; raises `InputError` if Ray is missing."""
    if engine != "ray":
        return Runner
    with requires_extra("--engine ray", "ray"):
        from letgo.study.ray_engine import RayRunner
    return RayRunner


def prepare(root: Path, study: Study, file: Path, remaining: Sequence[Cell]) -> None:
    """Check the remaining cells, and make the study's folder with a copy of STUDY.yaml.

    Raises:
        InputError: `letgo run` would refuse settings or data of a cell, or a finished run in the
            folder has other settings.
    """
    for cell in {(c.task, c.forget, c.method): c for c in remaining}.values():
        open_cell(study, cell)
    copy = root / "study.yaml"
    if copy.exists():
        before = read_study(copy)
        cells = set(before.cells())
        for cell in study.cells():
            changed = cell in cells and before.flags(cell) != study.flags(cell)
            if changed and is_done(root, cell):
                raise InputError(
                    f"--output_dir: {root} has {cell.name} with other settings than {file}; "
                    "give another folder"
                )
    if not copy.exists() or not copy.samefile(file):
        with atomic_write(copy) as part:
            shutil.copyfile(file, part)


def run_cells(runner: Runner, cells: Sequence[Cell]) -> dict[str, str]:
    """Run cells and write results after each; the error messages of failed cells by name."""
    failed = {}
    for cell, error in runner.run(cells):
        if error:
            failed[cell.name] = error
            log.warning("%s failed: %s", cell.name, error)
        try:
            write_results(runner.root, runner.study, failed)
        except InputError as wrong:  # the caller's last `write_results` raises it again
            log.warning("results: %s", wrong)
    done = [cell for cell in runner.study.cells() if is_done(runner.root, cell)]
    for cell in done if not runner.keep_models else []:
        remove_models(runner.root, cell)
    if not runner.keep_models and len(done) == len(runner.study.cells()):
        for model in (runner.root / "shared").glob("probe-*/"):
            shutil.rmtree(model)
    return failed
