"""What the commands do, and what they print."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from letgo import processes, progress
from letgo.cli.tables import _verdict, result_table, texts
from letgo.data import demo
from letgo.errors import InputError, missing_extra
from letgo.report.drawing import FORMATS
from letgo.report.figures import save_figures
from letgo.run import config as cfg
from letgo.run.folder import read_json
from letgo.scoring.explain import explain
from letgo.stages.pipeline import execute, reopen


def execute_command(command: str, arguments: list[str]) -> None:
    """Parse, call, print.

    Raises:
        InputError: unusable flags or data.
    """
    _hush_libraries()
    if command == "study":
        return _study(arguments)
    wanted = command == "score" and "--explain" in arguments
    arguments = [word for word in arguments if not (wanted and word == "--explain")]
    formats: list[str] = []
    if command == "report":
        formats, arguments = _figures(arguments)
    tasks = None
    if command == "evaluate":
        tasks, arguments = cfg.take_flag("--harness", arguments)
    config = cfg.parse(command, arguments, _defaults(command, arguments))
    progress.configure(config.settings.quiet or not processes.is_first())
    if command == "demo":
        demo.generate_data(Path(config.training.output_dir) / "data")
    if tasks is not None:
        return _harness(config, tasks.split(","))
    run = execute(config, None if command in ("run", "demo") else command)
    processes.shutdown()
    if not processes.is_first():
        return
    if wanted:
        print(explain(run.folder / "scores.parquet"))
    if command in ("run", "demo", "evaluate"):
        print(result_table(read_json(run.folder / "metrics.json")))
    if command == "demo":
        print(texts(run.folder))
    for file in save_figures(run.folder, formats) if formats else []:
        print(f"figure: {file}")
    if command in ("run", "demo", "report"):
        print(f"report: {run.folder / 'report.html'}")
        print(_verdict(run))


def _figures(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The formats that `--figures` asks for, and the arguments without it."""
    given, rest = cfg.take_flag("--figures", arguments)
    formats = given.split(",") if given is not None else []
    for name in formats:
        if name not in FORMATS:
            raise InputError(
                f"--figures must be one or several of {', '.join(FORMATS)}, joined by commas, not "
                f"{given}"
            )
    return formats, rest


def _study(arguments: list[str]) -> None:
    try:
        from letgo.cli.study import study_command
    except ModuleNotFoundError as error:
        raise missing_extra("letgo study", error, "study") from error
    study_command(arguments)


def _harness(config: cfg.Config, tasks: list[str]) -> None:
    try:
        from letgo.evaluation.harness import harness, table
    except ModuleNotFoundError as error:
        raise missing_extra("--harness", error, "harness") from error
    print(table(harness(reopen(config, "train"), tasks)))


def _defaults(command: str, arguments: list[str]) -> dict[str, Any]:
    """The demo's settings, or for a single stage those of the run folder."""
    given = cfg.output_dirs(arguments)
    if command == "demo":
        folder = given[-1] if given else "runs/demo"
        text = json.dumps(demo.SETTINGS).replace("{data}", f"{folder}/data")
        return {**json.loads(text), "output_dir": folder}
    file = Path(given[-1]) / "config.yaml" if given else Path()
    if command != "run" and cfg.take_flag("--config", arguments)[0] is None and file.is_file():
        return {**cfg.read(file), "overwrite": False, "quiet": False}
    return {}


def _hush_libraries() -> None:
    """Warnings that name no choice of letgo's user, and bars beside letgo's own."""
    import datasets
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|peft|transformers")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
