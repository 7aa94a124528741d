"""`letgo doctor`: are this machine, this model and these data fit for a run?"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from letgo.cli import machine
from letgo.cli.machine import ERROR, OK, WARNING, Finding
from letgo.errors import InputError, first_line, printable
from letgo.progress import log

if TYPE_CHECKING:
    from letgo.models.inference import Row as TokenRow
    from letgo.run.config import Config

USAGE = """\
usage: letgo doctor [RUN] [--config FILE] [--FLAG VALUE ...]

Checks the versions, the device, the disk and the extras. With the folder of a run, or with the
flags of letgo run (at least --model or --learn), it also checks the memory, the model, its chat
template, and what the model would see and learn of the data. It writes nothing.

Each line is ok, a warning with what to do, or an error. The exit status is 1 if there is an error.
"""


def doctor(arguments: Sequence[str]) -> None:
    """Print a line per check; exits with 1 if there is an error."""
    if {"-h", "--help"} & {*arguments}:
        print(USAGE, end="")
        return
    failed = False
    for status, subject, text in _findings(list(arguments)):
        print(f"{status:<8} {subject}: {printable(' '.join(text.split()))}", flush=True)
        failed |= status == ERROR
    if failed:
        sys.exit(1)


def _findings(arguments: list[str]) -> Iterator[Finding]:
    """All findings; what needs settings is left out if there are none."""
    yield from _guarded("versions", machine.versions)
    yield from _guarded("extras", machine.extras)
    yield from _guarded("device", machine.device)
    configs: list[Config] = []
    if arguments:
        yield from _guarded("settings", lambda: _read_settings(arguments, configs))
    folder = Path(configs[0].training.output_dir or ".") if configs else Path()
    yield from _guarded("write access", lambda: machine.write_access(folder))
    if configs:
        yield from _of_settings(configs[0], folder)
    else:
        yield from _guarded("disk", lambda: machine.disk(folder, 0))


def _of_settings(config: "Config", folder: Path) -> Iterator[Finding]:
    from letgo.cli import model_checks as checks

    size = checks.Size(0, 0)
    try:
        size = checks.size(config)
        yield from checks.memory(config, size)
    except Exception as error:  # whatever is wrong with a model is what was asked for
        yield _failure("model", error)
    yield from _guarded("disk", lambda: machine.disk(folder, size.folder))
    if size.weights:
        yield from _guarded("template", lambda: checks.template(config))
        rows: list[TokenRow] = []
        yield from _guarded("data", lambda: checks.data(config, rows))
        if size.weights < machine.free_memory():
            yield from _guarded("padding", lambda: checks.padding(config, rows))


def _read_settings(arguments: list[str], configs: "list[Config]") -> Iterator[Finding]:
    """Add the settings of a run folder or of flags to `configs`.

    Raises:
        InputError: no such run, or unusable settings.
    """
    from letgo.cli.commands import silence_libraries
    from letgo.cli.flags import parse
    from letgo.run.folder import is_run

    silence_libraries()
    folder = "" if arguments[0].startswith("-") else arguments[0]
    if folder:
        if not is_run(Path(folder)):
            raise InputError(f"{folder} is not the folder of a run: it has no config.yaml of letgo")
        arguments = ["--output_dir", folder, *arguments[1:]]
    config = parse("doctor", arguments)[1]
    if config.training.output_dir == "trainer_output":  # transformers' default
        config.training.output_dir = ""
    configs.append(config)
    yield Finding(OK, "settings", f"of {folder}" if folder else "of the flags")


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check, what it logs as a warning, and what it raises as an error."""
    warnings = _Warnings(subject)
    handlers, log.handlers, log.propagate = log.handlers, [warnings], False
    try:
        findings = list(check())
    except Exception as error:  # whatever is wrong is what was asked for
        findings = [_failure(subject, error)]
    finally:
        log.handlers = handlers
    yield from warnings.found
    yield from findings


def _failure(subject: str, error: Exception) -> Finding:
    own = isinstance(error, InputError)
    return Finding(
        ERROR, subject, str(error) if own else f"{type(error).__name__}: {first_line(error)}"
    )


class _Warnings(logging.Handler):
    """Collects what is logged as a warning."""

    def __init__(self, subject: str):
        super().__init__(logging.WARNING)
        self.subject = subject
        self.found: list[Finding] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(Finding(WARNING, self.subject, record.getMessage()))
