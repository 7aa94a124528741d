"""The flags of a command: those that only it has, and the settings of a run."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from letgo.data import demo
from letgo.errors import Parser
from letgo.report.drawing import FORMATS
from letgo.run import config as cfg


class CommandFlags(argparse.Namespace):
    """The flags that are not settings of a run, and `output_dir`."""

    config: Path | None = None
    output_dir: str = ""
    explain: bool = False
    figures: list[str] = []
    harness: list[str] = []


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
    flags = parse_early(arguments, own)
    settings, source = _settings(command, flags)
    return flags, cfg.parse(command, arguments, settings, source, parents=[own])


def parse_early(arguments: Sequence[str], *own: argparse.ArgumentParser) -> CommandFlags:
    """The flags of `own` and `--output_dir`; all other arguments are ignored."""
    parser = Parser(parents=own, add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", "--output-dir")
    return parser.parse_known_args(arguments, CommandFlags())[0]


def _formats(names: str) -> list[str]:
    if set(names.split(",")) <= set(FORMATS):
        return names.split(",")
    raise argparse.ArgumentTypeError(
        f"must be one or several of {', '.join(FORMATS)}, joined by commas, not {names}"
    )


def _settings(command: str, flags: CommandFlags) -> tuple[cfg.Settings, str]:
    """The settings that flags override, and where they come from."""
    settings: cfg.Settings = {}
    if command == "demo":
        folder = flags.output_dir or "runs/demo"
        text = json.dumps(demo.SETTINGS).replace("{data}", f"{folder}/data")
        settings = {**json.loads(text), "output_dir": folder}
    if flags.config:
        return {**settings, **cfg.read(flags.config)}, f"--config {flags.config}"
    saved = Path(flags.output_dir, "config.yaml")
    if flags.output_dir and command not in ("run", "demo") and saved.is_file():
        return {**cfg.read(saved), "overwrite": False, "quiet": False}, str(saved)
    return settings, "settings"
