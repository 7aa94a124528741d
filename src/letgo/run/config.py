"""Every setting of a run, from flags and YAML to the `config.yaml` that repeats it."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from trl import ModelConfig, TrlParser

from letgo.data.splits import MISTAKES
from letgo.errors import InputError
from letgo.models.bundled import EMBEDDED
from letgo.scoring.fisher import KINDS
from letgo.scoring.scores import DEFAULT_SCORE, SCORES
from letgo.unlearning.config import LWFConfig, setting


@dataclass
class RunConfig:
    """The data and the scale of a run; training is `LWFConfig`, the adapter `ModelConfig`."""

    model: str = setting(EMBEDDED, "Hub id, folder of a saved model, or smollm2-135m (built in).")
    learn: str | None = setting(
        None, "Learning data: file, folder, URL or hub id of records with prompt and completion."
    )
    learn_test: str | None = setting(
        None, "Held-out learning data; without it a seeded tenth of --learn is kept apart."
    )
    learn_validation: str | None = setting(
        None,
        "Learning data that decide between LWF and plain fine-tuning; without it a seeded tenth of "
        "--learn, at most 200 examples, is kept apart.",
    )
    forget: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Forgetting prompts; may be given several times. learn:mistakes: what the "
            "base model answers wrongly of the learning data."
        },
    )
    max_learn: int | None = setting(None, "At most so many learning examples, drawn by --seed.")
    max_test: int | None = setting(
        None, "At most so many test examples, with every --seed the same."
    )
    max_forget: int | None = setting(None, "At most so many prompts per forgetting set.")
    max_new_tokens: int = setting(64, "Longest self-generated text, in tokens.")
    optimum: str = setting(
        "full",
        "Optimum of the learning task that texts are measured against: full (plain fine-tuning, "
        "also the baseline), steps:N (its first N steps), lora (an adapter), or gradient (no "
        "training; the mean learning gradient).",
    )
    score: str = setting(DEFAULT_SCORE, f"Forgetting score: one of {', '.join(SCORES)}.")
    selection: str = setting(
        "top", "Which texts to forget by confidence: top, or as controls bottom or random."
    )
    fisher_kind: str = setting(
        "factored", f"Form of the Fisher information: one of {', '.join(KINDS)}."
    )
    fisher_labels: str = setting(
        "empirical", "empirical: the learning data's labels; sampled: drawn from the model."
    )
    skip_non_finite: bool = setting(
        False, "Leave out texts and examples whose loss is not a finite number; else stop."
    )
    fisher_examples: int = setting(256, "Learning examples that the Fisher information averages.")
    tokens_per_batch: int = setting(1024, "Tokens per scoring batch; lower it to save memory.")
    generation_batch_size: int = setting(32, "Prompts answered together.")
    checkpoint_minutes: float = setting(5.0, "An interrupted training loses at most so much.")
    shared: str | None = setting(
        None,
        "Folder that runs share: what one has elicited, scored or fine-tuned without "
        "unlearning, others with the same settings take from there.",
    )
    overwrite: bool = setting(False, "Make stages again whose inputs have changed.")
    quiet: bool = setting(False, "No progress, only results and warnings.")

    def __post_init__(self) -> None:
        if isinstance(self.forget, str):  # YAML with one set and no list
            self.forget = [self.forget]
        for name in ("model", "learn", "learn_test", "learn_validation"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"--{name} must be one name, not {getattr(self, name)}")
        if not all(isinstance(name, str) for name in self.forget):
            raise InputError(f"--forget must be names, not {self.forget}")
        for name, choices in (
            ("score", tuple(SCORES)),
            ("fisher_kind", tuple(KINDS)),
            ("selection", ("top", "bottom", "random")),
            ("fisher_labels", ("empirical", "sampled")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"--{name} must be one of {', '.join(choices)}, not {getattr(self, name)}"
                )
        if not re.fullmatch(r"full|lora|gradient|steps:[1-9][0-9]*", self.optimum):
            raise InputError(
                f"--optimum must be full, steps:N, lora or gradient, not {self.optimum}"
            )
        for name in (
            "max_learn",
            "max_test",
            "max_forget",
            "max_new_tokens",
            "fisher_examples",
            "tokens_per_batch",
            "generation_batch_size",
        ):
            value = getattr(self, name)
            optional = name.startswith("max_") and name != "max_new_tokens"
            if (value is not None or not optional) and (not isinstance(value, int) or value < 1):
                raise InputError(f"--{name} must be a whole number of at least 1, not {value}")


class Config(NamedTuple):
    """All settings of a run."""

    settings: RunConfig
    training: LWFConfig
    adapter: ModelConfig


# TRL's defaults suit long runs on a cluster; a run folder wants every step in its log, and its
# checkpoints come by the clock (`checkpoint_minutes`).
DEFAULTS = {"logging_steps": 1, "save_strategy": "no", "save_total_limit": 1, "report_to": "none"}
CLASSES = (RunConfig, LWFConfig, ModelConfig)


class _Parser(TrlParser):
    """TRL's parser, with errors of one line."""

    def error(self, message: str) -> Any:
        raise InputError(message)


def parse(command: str, arguments: list[str], defaults: dict[str, Any]) -> Config:
    """Settings from the command line over those of `--config` over `defaults`.

    Args:
        command: for the help text, e.g. "run".
        arguments: what follows the command; `--config FILE` may be among them.
        defaults: settings that replace letgo's own defaults.

    Raises:
        InputError: unknown flag, malformed value or file.
    """
    parser = _Parser(CLASSES, prog=f"letgo {command}", allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of settings; flags override it.")
    if command == "score":  # taken out of the arguments before they come here
        told = "Print what the ranking is made of: layers, length, loss."
        parser.add_argument("--explain", action="store_true", help=told)
    if command == "report":
        told = "Also write figures/NAME.FORMAT: pdf, svg, png, or several, joined by commas."
        parser.add_argument("--figures", metavar="FORMATS", help=told)
    if command == "evaluate":
        told = "Instead, ask lm-evaluation-harness: names of its tasks, with commas between."
        parser.add_argument("--harness", metavar="TASKS", help=told)
    arguments = _join_repeated(arguments, "--forget")
    file, rest = take_flag("--config", arguments)
    settings = {**DEFAULTS, **defaults, **(read(Path(file)) if file else {})}
    # As text, a value goes through the flag's own check of its type.
    texts = {k: str(v) if isinstance(v, int | float) else v for k, v in settings.items()}
    unknown = parser.set_defaults_with_config(**texts)
    if unknown:
        raise InputError(f"--config {file}: unknown setting {unknown[0].removeprefix('--')!r}")
    try:
        run, training, model, *_, left = parser.parse_args_into_dataclasses(
            rest, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if left:
        raise InputError(f"unknown flag {left[0]}; letgo {command} --help lists them all")
    if model.model_name_or_path:  # TRL's name for --model
        run.model = model.model_name_or_path
    if MISTAKES in run.forget:
        training.forget_max_overlap = 1.0  # learning prompts are what is meant
    if run.selection != "top" and training.rescore_interval != 0:
        raise InputError(
            f"--selection {run.selection} is a control of the score taken at the base "
            f"model: give --rescore_interval 0 with it"
        )
    return Config(run, training, model)


def output_dirs(arguments: Sequence[str]) -> list[str]:
    """The values of `--output_dir` among arguments that are not parsed yet."""
    flags = ("--output_dir", "--output-dir")
    joined = [a.split("=", 1)[1] for a in arguments if a.startswith(tuple(f + "=" for f in flags))]
    return joined + [value for flag, value in pairwise(arguments) if flag in flags]


def take_flag(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of a flag such as `--config`, and the arguments without it."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1], arguments[:index] + arguments[index + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:index] + arguments[index + 1 :]
    return None, arguments


def _join_repeated(arguments: list[str], flag: str) -> list[str]:
    """`--forget A --forget B` as `--forget A B`: argparse would keep only the last."""
    values: list[str] = []
    rest: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("--"):
            taking = argument == flag
            if argument.startswith(f"{flag}="):
                values.append(argument.removeprefix(f"{flag}="))
            elif not taking:
                rest.append(argument)
        else:
            (values if taking else rest).append(argument)
    return [*rest, flag, *values] if values else rest


def read(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, without the provenance that letgo writes beside them.

    Raises:
        InputError: missing, or not a mapping.
    """
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config: cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"--config: {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InputError(f"--config: {file} must be a mapping of settings")
    settings.pop("provenance", None)
    return settings


def settings(config: Config) -> dict[str, Any]:
    """Every setting by its flag's name, as plain YAML values."""
    left_out = {"hub_token", "model_name_or_path", "local_rank"}
    if not torch.accelerator.is_available():
        left_out.add("use_cpu")  # nobody's choice: the run may be repeated on a GPU
    return {
        f.name: _plain(getattr(part, f.name))
        for part in config
        for f in dataclasses.fields(part)
        if f.init and f.name not in left_out
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def changed_from_default(part: Any, leave_out: set[str]) -> dict[str, Any]:
    """The settings of a dataclass that differ from its class's defaults."""
    changed = {}
    for f in dataclasses.fields(part):
        if f.init and f.name not in leave_out:
            factory = f.default_factory
            default = f.default if factory is dataclasses.MISSING else factory()
            value = _plain(getattr(part, f.name))
            if value != _plain(default):
                changed[f.name] = value
    return changed
