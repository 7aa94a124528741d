"""`letgo study`: run a grid, or say what it would be, or check its results."""

import math
import shutil
from pathlib import Path
from typing import Any

from letgo import progress
from letgo.errors import InputError, Parser, requires_extra
from letgo.study.command import check, write_results
from letgo.study.estimate import estimate, open_cell, told
from letgo.study.markdown import page
from letgo.study.plan import Study, read_study
from letgo.study.runner import Runner, clear_shared, is_done


def study_command(arguments: list[str]) -> None:
    """Parse, run, print.

    Raises:
        InputError: unusable flags, a study that cannot be run, results that do not agree.
    """
    parser = Parser(prog="letgo study", description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, help="STUDY.yaml")
    parser.add_argument("--output_dir", type=Path, help="[runs/NAME of the file]")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and its cost")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once [1], on each machine")
    parser.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="where runs run: here [processes], or on a Ray cluster",
    )
    parser.add_argument("--max_minutes", type=float, default=math.inf, help="then stop; resumable")
    parser.add_argument("--keep_models", action="store_true", help="keep every run's models")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="results.json",
        help="compute every figure again from the cells beside it",
    )
    given = parser.parse_args(arguments)
    progress.configure(given.quiet)
    if given.check:
        return check(given.check)
    if given.study is None:
        parser.error("give STUDY.yaml, or --check results.json")
    if given.jobs < 1:
        parser.error("--jobs must be 1 or more")
    study = read_study(given.study)
    root = given.output_dir or Path("runs") / given.study.stem
    cells = study.cells()
    todo = [cell for cell in cells if not is_done(root, cell)]
    if given.plan:
        cost = estimate(study, todo, given.jobs) if todo else None
        print(told(cells, lambda cell: is_done(root, cell), cost))
        return
    for cell in {(c.task, c.forget, c.method): c for c in todo}.values():
        open_cell(study, cell)  # what cannot be run is found out before anything is
    engine = _ray_runner() if given.engine == "ray" else Runner
    runner = engine(root, study, given.jobs, given.max_minutes * 60, given.keep_models)
    _begin(root, study, given.study)
    failed = {}
    for cell, error in runner.run(todo):
        if error:
            failed[cell.name] = error
            progress.log.warning("%s failed: %s", cell.name, error)
        try:
            write_results(root, study, failed)
        except InputError as wrong:
            progress.log.warning("results: %s", wrong)  # other cells go on; said at the end
    results = write_results(root, study, failed)
    if not given.keep_models:
        clear_shared(root, study)
    print(page(results).split("## Every run")[0].rstrip())
    print(f"results: {root / 'results.md'}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(todo)} runs failed, first {next(iter(failed))}; "
            f"their logs are in {root / 'cells'}, and the same command tries them "
            f"again"
        )


def _ray_runner() -> Any:
    with requires_extra("--engine ray", "ray"):
        from letgo.study.ray_engine import RayRunner
    return RayRunner


def _begin(root: Path, study: Study, file: Path) -> None:
    """Make the folder; refuse one of another study.

    More methods, tasks, sets, seeds and claims may come: runs that are done stay what they are.

    Raises:
        InputError: runs that are there would now be other ones.
    """
    kept = root / "study.yaml"
    if kept.exists():
        before = read_study(kept)
        known = {*before.cells()}
        for cell in study.cells():
            if cell in known and is_done(root, cell) and before.flags(cell) != study.flags(cell):
                raise InputError(
                    f"--output_dir: {root} has {cell.name} with other settings "
                    f"than {file}; give another folder"
                )
    root.mkdir(parents=True, exist_ok=True)
    if not kept.exists() or not kept.samefile(file):
        shutil.copyfile(file, kept)
