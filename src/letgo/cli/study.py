"""`letgo study`: run a grid, show what would be run, or check its results."""

import argparse
import math
from collections.abc import Collection
from pathlib import Path

from letgo import progress
from letgo.cli.tables import as_text, plain_table
from letgo.errors import InputError, Parser
from letgo.run.folder import Row
from letgo.run.lock import exclusive
from letgo.study.cells import read_cells
from letgo.study.check import check
from letgo.study.estimate import expected_seconds
from letgo.study.grid import prepare, run_cells, runner_of
from letgo.study.markdown import summary, tables
from letgo.study.plan import Cell, Study, read_study
from letgo.study.results import write_results


def study_command(arguments: list[str]) -> None:
    """Parse, run, print.

    Raises:
        InputError: unusable flags, a study that cannot be run, results that do not agree.
    """
    flags = _parse(arguments)
    progress.configure(flags.quiet)
    if flags.check:
        count = check(flags.check)
        print(f"{flags.check}: every figure is that of its {count} runs")
        return
    study = read_study(flags.study)
    root = flags.output_dir or Path("runs") / flags.study.stem
    taken = {cell: sum(file["seconds"].values()) for cell, file in read_cells(root, study).items()}
    remaining = [cell for cell in study.cells() if cell not in taken]
    if flags.plan:
        _print_plan(study, taken)
        print(_cost(len(remaining), expected_seconds(remaining, taken), flags.jobs))
        return
    with exclusive(root, "letgo study"):
        prepare(root, study, flags.study, remaining)
        engine = runner_of(flags.engine)
        runner = engine(root, study, flags.jobs, flags.max_minutes * 60, flags.keep_models)
        failed = run_cells(runner, remaining)
        _print_results(write_results(root, study, failed))
    print(f"results: {root / 'results.md'}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(remaining)} runs failed, first {next(iter(failed))}; "
            f"see their logs in {root / 'cells'}; the same command tries them again"
        )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="letgo study", description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, help="STUDY.yaml")
    parser.add_argument("--output_dir", type=Path, help="[runs/NAME of the file]")
    parser.add_argument(
        "--plan", action="store_true", help="show the runs, which are done, and the time to go"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at the same time [1], on each machine"
    )
    parser.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="where runs run: on this machine [processes], or on a Ray cluster",
    )
    parser.add_argument(
        "--max_minutes", type=float, default=math.inf, help="stop then; a later call resumes"
    )
    parser.add_argument("--keep_models", action="store_true", help="keep the models of all runs")
    parser.add_argument("--quiet", action="store_true", help="only results and warnings")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="results.json",
        help="recompute every figure from the cells' files in its folder",
    )
    flags = parser.parse_args(arguments)
    if flags.check is None and flags.study is None:
        parser.error("give STUDY.yaml, or --check results.json")
    if flags.jobs < 1:
        parser.error("--jobs must be 1 or more")
    return flags


def _print_plan(study: Study, done: Collection[Cell]) -> None:
    """One row per task, forgetting set and method, with its seeds."""
    table = plain_table("learn", "forget", "method", "seeds to do", "seeds done")
    cells = study.cells()
    for task, forget, method in dict.fromkeys(cell[:3] for cell in cells):
        of_row = [cell for cell in cells if cell[:3] == (task, forget, method)]
        seeds = (
            " ".join(str(cell.seed) for cell in of_row if (cell in done) == is_done)
            for is_done in (False, True)
        )
        table.add_row(task, forget, method, *seeds)
    print(as_text(table))
    print(f"{len(cells)} runs, {len(done)} done")


def _cost(remaining: int, seconds: float | None, jobs: int) -> str:
    """The time that the remaining runs will take, as a sentence."""
    if not remaining:
        return "nothing to do"
    if seconds is None:
        return f"time for {remaining} runs: unknown until a first run is done"
    return f"time for {remaining} runs: about {math.ceil(seconds / jobs / 60)} minutes"


def _print_results(results: Row) -> None:
    """All tables of `results.md` but those of single runs."""
    print(summary(results))
    for title, text, header, rows in tables(results):
        table = plain_table(*header)
        for row in rows:
            table.add_row(*row)
        print(f"\n{title}\n{text}\n{as_text(table)}")
