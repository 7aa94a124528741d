"""The flags of a command: those that only it has, and the settings of a run."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from letgo.data import demo
from letgo.errors import InputError, Parser
from letgo.report.drawing import FORMATS
from letgo.run import config as cfg
from letgo.run.settings_file import is_of_a_run, read
from letgo.run.values import expanded

AUDIT_FOLDER = "runs/audit"  # of an audit alone, unless it names one


class CommandFlags(argparse.Namespace):
    """The flags that are not settings of a run, and `output_dir`."""

    config: Path | None = None
    output_dir: str = ""
    explain: bool = False
    figures: list[str] = []
    harness: list[str] = []
    clean: str | None = None
    top: int = 20
    limit: float | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | str | None = None
    fewshot_as_multiturn: bool | None = None


def parse(command: str, arguments: Sequence[str]) -> tuple[CommandFlags, cfg.Config]:
    """A command's own flags and the settings of its run.

    Raises:
        InputError: unknown flag, malformed value or file.
    """
    own = Parser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, metavar="FILE", help="YAML file; flags override it.")
    if command == "score":
        text = "Print the shares of layers in the scores, and the effect of length and loss."
        own.add_argument("--explain", action="store_true", help=text)
    if command == "report":
        text = f"Also write figures/NAME.FORMAT: {', '.join(FORMATS)}, joined by commas."
        own.add_argument("--figures", type=_formats, metavar="FORMATS", help=text)
    if command == "evaluate":
        text = "Evaluate on tasks of lm-evaluation-harness instead: names, joined by commas."
        own.add_argument("--harness", type=lambda s: s.split(","), metavar="TASKS", help=text)
        _add_harness_options(own)
    if command == "audit":
        text = "Learning examples whose answers are right: a file, folder, URL or Hub id; for a "
        text += "run by default its --learn_validation."
        own.add_argument("--clean", metavar="DATA", help=text)
        text = "Number of examples to print, those most at odds with the clean ones."
        own.add_argument("--top", type=int, default=20, metavar="N", help=text)
    flags = parse_early(arguments, own)
    settings, source, of_run = _settings(command, flags)
    return flags, cfg.parse(command, arguments, settings, source, [own], of_run)


def parse_early(arguments: Sequence[str], *own: argparse.ArgumentParser) -> CommandFlags:
    """The flags of `own` and `--output_dir`; all other arguments are ignored."""
    parser = Parser(parents=own, add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", "--output-dir")
    flags = parser.parse_known_args(arguments, CommandFlags())[0]
    flags.output_dir = expanded(flags.output_dir)
    flags.clean = flags.clean and expanded(flags.clean)
    return flags


HARNESS_OPTIONS = ("limit", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn")


def _add_harness_options(parser: argparse.ArgumentParser) -> None:
    """The flags that are passed on to lm-evaluation-harness."""
    text = "Harness: documents of each task, a number or a fraction below 1 [--max_test]."
    parser.add_argument("--limit", type=float, metavar="N", help=text)
    text = "Harness: examples in the prompt [that of the task]."
    parser.add_argument("--num_fewshot", type=int, metavar="N", help=text)
    text = "Harness: true, false, or the name of a template [true if the tokenizer has one]."
    parser.add_argument(
        "--apply_chat_template", type=_true_or_name, nargs="?", const=True, metavar="X", help=text
    )
    text = "Harness: true or false: examples as turns of a conversation [the harness's default]."
    parser.add_argument(
        "--fewshot_as_multiturn", type=_true, nargs="?", const=True, metavar="X", help=text
    )


def harness_options(flags: CommandFlags) -> dict[str, Any]:
    """The options of lm-evaluation-harness that were given, by their names there.

    Raises:
        InputError: an option outside its range, or without `--harness`.
    """
    given = {name: getattr(flags, name) for name in HARNESS_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    if options and not flags.harness:
        raise InputError(f"--{next(iter(options))} is an option of --harness TASKS; add it")
    limit = options.get("limit", 1)
    if not 0 < limit < 1 and not (limit >= 1 and limit == int(min(limit, 1e9))):
        raise InputError(f"--limit must be a whole number or a fraction below 1, not {limit:g}")
    if limit >= 1 and "limit" in options:
        options["limit"] = int(limit)
    if options.get("num_fewshot", 0) < 0:
        raise InputError(f"--num_fewshot must be 0 or more, not {options['num_fewshot']}")
    return options


def _true(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"must be true or false, not {text}")


def _true_or_name(text: str) -> bool | str:
    return _true(text) if text.lower() in ("true", "false") else text


def _formats(names: str) -> list[str]:
    if set(names.split(",")) <= set(FORMATS):
        return names.split(",")
    raise argparse.ArgumentTypeError(
        f"must be one or several of {', '.join(FORMATS)}, joined by commas, not {names}"
    )


def _settings(command: str, flags: CommandFlags) -> tuple[cfg.Settings, str, bool]:
    """The settings that flags override, where they come from, and whether that is a run."""
    settings: cfg.Settings = {}
    if command == "demo":
        folder = flags.output_dir or "runs/demo"
        # In a path, quotes and backslashes would end the JSON string.
        data = json.dumps(f"{folder}/data")[1:-1]
        text = json.dumps(demo.SETTINGS).replace("{data}", data)
        settings = {**json.loads(text), "output_dir": folder}
    if command == "audit" and not flags.output_dir:
        flags.output_dir = AUDIT_FOLDER
        settings = {"output_dir": AUDIT_FOLDER}
    if flags.config:
        file = Path(expanded(str(flags.config)))
        return {**settings, **read(file)}, f"--config {file}", is_of_a_run(file)
    saved = Path(flags.output_dir, "config.yaml")
    if flags.output_dir and command not in ("run", "demo") and saved.is_file():
        return {**read(saved), "overwrite": False, "quiet": False}, str(saved), True
    return settings, "settings", False
