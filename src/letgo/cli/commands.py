"""The commands that run stages, and what they print."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from letgo import processes, progress
from letgo.cli.flags import CommandFlags, harness_options, parse
from letgo.cli.tables import audit_table, harness_table, result_table, text_table, verdict
from letgo.data import demo
from letgo.errors import InputError, printable, requires_extra
from letgo.report.figures import save_figures
from letgo.report.outcomes import in_plain_words
from letgo.run.audit import read_audit
from letgo.run.config import Config
from letgo.run.folder import AUDIT, Row, read_json
from letgo.scoring.explain import explain
from letgo.stages.pipeline import execute, execute_audit, execute_harness


def execute_command(command: str, arguments: list[str]) -> None:
    """Parse the flags of a command, run its stages and print the results.

    Raises:
        InputError: unusable flags or data.
    """
    silence_libraries()
    progress.configure(quiet=True)  # warnings about the settings
    if command == "study":
        with requires_extra("letgo study", "study"):
            from letgo.cli.study import study_command
        return study_command(arguments)
    flags, config = parse(command, arguments)
    progress.configure(config.settings.quiet or not processes.is_first())
    if command == "audit":
        return _audit(config, flags)
    if command == "evaluate":
        options = harness_options(flags)
        if flags.harness:
            return _harness(config, flags.harness, options)
    if command in ("run", "demo"):
        _run(config, command == "demo")
    else:
        _stage(command, config, flags)


def _run(config: Config, is_demo: bool) -> None:
    """All stages; the demo writes its data first."""
    if is_demo:
        demo.generate_data(Path(config.training.output_dir) / "data")
    folder = execute(config).folder
    metrics = read_json(folder / "metrics.json")
    print(result_table(metrics))
    if is_demo:
        print(f"\n{text_table(folder)}")
    _print("\n".join(["", *in_plain_words(metrics["outcomes"])]))
    _print_report(folder)


def _stage(name: str, config: Config, flags: CommandFlags) -> None:
    """One stage; only `score` may run in several processes, of which the first prints."""
    folder = execute(config, name).folder
    processes.shutdown()
    if not processes.is_first():
        return
    if flags.explain:
        print(explain(folder / "scores.parquet"))
    if name == "evaluate":
        print(result_table(read_json(folder / "metrics.json")))
    if flags.figures:
        for file in save_figures(folder, flags.figures):
            _print(f"figure: {file}")
    if name == "report":
        _print_report(folder)


def _audit(config: Config, flags: CommandFlags) -> None:
    """The learning examples most at odds with clean ones."""
    if flags.top < 0:
        raise InputError(f"--top must be 0 or more, not {flags.top}")
    folder = execute_audit(config, flags.clean).folder
    print(audit_table(read_audit(folder), flags.top))
    _print(f"\naudit: {folder / AUDIT.name}; `letgo review {folder}` decides on each example")


def _print_report(folder: Path) -> None:
    _print(f"report: {folder / 'report.html'}\n{verdict(folder)}")


def _print(text: str) -> None:
    """Print text that names files or sets, which must not command the terminal."""
    print(printable(text))


def _harness(config: Config, tasks: Sequence[str], options: Row) -> None:
    """The trained models on tasks of lm-evaluation-harness; no stage runs."""
    with requires_extra("--harness", "harness"):
        import lm_eval  # noqa: F401
    run = execute_harness(config, tasks, options)
    print(harness_table(read_json(run.folder / "harness.json")))


def silence_libraries() -> None:
    """Silence library warnings that users cannot act on, and their progress bars."""
    import datasets
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|peft|transformers")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
