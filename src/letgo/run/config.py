"""The settings of a run: flags over a YAML file over defaults, and back to plain values."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from transformers.integrations import integration_utils as integrations
from trl import ModelConfig, TrlParser

from letgo.data.splits import LOOPS, MISTAKES, PATTERN, WRONG
from letgo.errors import InputError, Parser, reason
from letgo.run import evaluations, trust, values
from letgo.run.settings import LISTS
from letgo.run.settings import RunConfig as RunConfig
from letgo.run.settings_file import read as read
from letgo.run.values import short
from letgo.unlearning.config import LWFConfig

Settings = Mapping[str, Any]

# TRL's defaults suit long runs on a cluster. A run folder logs every step, and `checkpoint_minutes`
# decides when checkpoints are written.
DEFAULTS = {"logging_steps": 1, "save_strategy": "no", "save_total_limit": 1, "report_to": "none"}


class Config(NamedTuple):
    """All settings of a run."""

    settings: RunConfig
    training: LWFConfig
    adapter: ModelConfig


PARTS = (RunConfig, LWFConfig, ModelConfig)


class _SettingsParser(TrlParser):
    error = Parser.error  # raises InputError


def parse(
    command: str,
    arguments: Sequence[str],
    settings: Settings,
    source: str = "settings",
    parents: Sequence[argparse.ArgumentParser] = (),
    of_run: bool = False,
) -> Config:
    """The settings of a run, from flags over `settings` over letgo's defaults.

    Args:
        settings: values by flag name, e.g. those of a YAML file.
        source: where `settings` come from, for error messages.
        parents: parsers of further flags, which are listed in the help text and not returned.
        of_run: whether `settings` are the `config.yaml` of a run, and so perhaps somebody else's.

    Raises:
        InputError: unknown flag or setting, malformed value, values that exclude each other, or
            something that only a flag may turn on.
    """
    prog = f"letgo {command}"
    parser = _SettingsParser(PARTS, prog=prog, parents=list(parents), allow_abbrev=False)
    flags = trust.flags_in(arguments)
    settings = trust.followed(settings, flags, source, of_run)
    lists = _set_defaults(parser, settings, source)
    namespace, rest = parser.parse_known_args(list(arguments))
    if rest:
        raise InputError(f"unknown flag {rest[0]}; letgo {command} --help lists them all")
    given = vars(namespace)
    given |= {name: value for name, value in lists.items() if not given[name]}
    _check_choices(parser, {name: given[name] for name in settings})
    evaluations.complete(given)
    config = _build(values.checked(given))
    run, training, model = config
    if model.model_name_or_path:  # TRL's name for --model
        run.model = model.model_name_or_path
    trust.check({**vars(model), **vars(training), **vars(run)}, flags, command, source, of_run)
    of_learning = {MISTAKES, WRONG, LOOPS, *([] if run.forget_pattern_prompts else [PATTERN])}
    if of_learning & {*run.forget}:  # answers to learning prompts are to be unlearned
        training.forget_max_overlap = 1.0
    _check_together(command, config)
    return config


def of_folder(command: str, folder: Path) -> Config:
    """The settings of the run in a folder, for a command that has no flags for them.

    Raises:
        InputError: its `config.yaml` cannot be used.
    """
    file = folder / "config.yaml"
    # The run may be somebody else's: nothing in its file is taken for a flag of this command.
    return parse(command, ["--output_dir", str(folder)], read(file), str(file), of_run=True)


def _set_defaults(parser: TrlParser, settings: Settings, source: str) -> dict[str, list[str]]:
    """Make settings the defaults of their flags.

    Returns:
        the lists among them, which are no defaults: the flags would extend them.
    """
    hints: dict[str, Any] = {}
    for part in PARTS:
        hints |= get_type_hints(part)
    defaults: dict[str, Any] = {**DEFAULTS}
    for name, value in settings.items():
        if name not in hints:
            raise InputError(f"{source}: unknown setting {short(name)!r}")
        defaults[name] = values.for_flag(name, value, hints[name], source)
    lists = {name: defaults.pop(name) for name in LISTS if name in defaults}
    parser.set_defaults_with_config(**defaults)
    return lists


def _check_choices(parser: TrlParser, given: Settings) -> None:
    """Refuse a value that is not a choice: argparse takes any default."""
    for action in parser._actions:
        value = given.get(action.dest)
        if action.choices and value is not None and value not in action.choices:
            expected = ", ".join(map(str, action.choices))
            raise InputError(f"--{action.dest} must be one of {expected}, not {short(value)}")


def _build(given: Settings) -> Config:
    """The dataclasses of all settings."""
    built: list[Any] = []
    for part in PARTS:
        own = {f.name: given[f.name] for f in dataclasses.fields(part) if f.init}
        try:
            built.append(part(**own))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # whatever TRL and transformers raise
            name = _culprit(part, own)
            flag = f"--{name} {short(own[name])}" if name else "the settings"
            raise InputError(f"{flag} cannot be used: {reason(error)}") from error
    return Config(*built)


def _culprit(part: type, given: Settings) -> str | None:
    """The setting without which a dataclass can be built."""
    for name, value in given.items():
        rest = {other: given[other] for other in given if other != name}
        if _plain(value) != _plain(getattr(part, name, None)):
            with suppress(Exception):
                part(**rest)
                return name
    return None


def _check_together(command: str, config: Config) -> None:
    """Refuse settings that letgo cannot follow."""
    run, training, model = config
    if run.selection != "top" and training.rescore_interval != 0:
        raise InputError(
            f"--selection {run.selection} is a control of the scores at the base model; add "
            "--rescore_interval 0"
        )
    if training.push_to_hub:
        folder = Path(training.output_dir or "OUTPUT_DIR") / "model"
        raise InputError(
            f"--push_to_hub: letgo uploads nothing; leave it out, and after the run upload the "
            f"model by `hf upload ID {folder}`"
        )
    if not isinstance(training.model_init_kwargs, dict | None):
        raise InputError("--model_init_kwargs must be a mapping, in JSON as a flag")
    if model.dtype != "auto" and not isinstance(
        getattr(torch, model.dtype or "", None), torch.dtype
    ):
        raise InputError(f"--dtype must be auto or a type such as bfloat16, not {model.dtype}")
    available = integrations.get_available_reporting_integrations()
    for tracker in training.report_to or []:
        if tracker not in integrations.INTEGRATION_TO_CALLBACK:
            choices = ", ".join(["none", "all", *integrations.INTEGRATION_TO_CALLBACK])
            raise InputError(f"--report_to must be one of {choices}, not {short(tracker)}")
        # A review trains nothing.
        if tracker not in available and command != "review":
            package = tracker.replace("_", "-")
            raise InputError(
                f"--report_to {tracker}: it is not installed; run `pip install {package}`, or "
                f"leave it out"
            )


def plain_settings(config: Config) -> dict[str, Any]:
    """Every setting by its flag's name, as values that YAML can hold."""
    left_out = {"hub_token", "model_name_or_path", "local_rank"}
    if not torch.accelerator.is_available():
        left_out.add("use_cpu")  # set by letgo; the run may be repeated on a GPU
    return {
        f.name: _plain(getattr(part, f.name))
        for part in config
        for f in dataclasses.fields(part)
        if f.init and f.name not in left_out
    }


def changed_from_default(part: LWFConfig | ModelConfig, leave_out: set[str]) -> dict[str, Any]:
    """The settings of a dataclass that differ from its class's defaults, as plain values."""
    changed = {}
    for f in dataclasses.fields(part):
        factory, value = f.default_factory, _plain(getattr(part, f.name, None))
        default = f.default if factory is dataclasses.MISSING else factory()
        if f.init and f.name not in leave_out and value != _plain(default):
            changed[f.name] = value
    return changed


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
