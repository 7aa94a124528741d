"""The values of settings: of the right type, not too large, and usable as names of files."""

import math
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePosixPath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from letgo.errors import InputError

# Settings that name files, folders, URLs or repositories.
SOURCES = ("model", "learn", "learn_test", "learn_validation", "forget", "keep")
PATHS = (*SOURCES, "forget_pattern_prompts", "shared", "output_dir", "chat_template_path")
# Limits that infinity turns off.
MAY_BE_INFINITE = {
    "checkpoint_minutes",
    "max_grad_norm",
    "unlearning_ceiling",
    "unlearning_max_grad_norm",
    "unlearning_max_rise",
}
SEEDS = {"seed": 2**32, "data_seed": 2**32}  # NumPy's limit
MOST, LONGEST_NAME, LONGEST_PATH = 2**31, 255, 4095
_MEANINGS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "names",
    dict: "a mapping",
    NoneType: "null",
}


def for_flag(name: str, value: Any, hint: Any, source: str) -> Any:
    """A value of a YAML file as the default of a flag: numbers as text, which the flag checks.

    Args:
        hint: the type of the setting.

    Raises:
        InputError: the value is of another type.
    """
    types = _plain_types(hint)
    result: Any = value
    if isinstance(value, bool):
        fits, result = bool in types, str(value)
    elif isinstance(value, int | float):
        check_number(name, value)
        as_text = str in types and dict not in types
        fits, result = as_text or bool(types & {int, float}), str(value)
    elif isinstance(value, str):
        # Without the list PEFT would take one name for a regular expression.
        return [value] if list in types and str not in types else value
    elif isinstance(value, list):
        fits = list in types and all(isinstance(item, str) for item in value)
    else:
        fits = type(value) in types
    if not fits:
        meanings = {**_MEANINGS, str: "one name"} if name in PATHS else _MEANINGS
        expected = " or ".join(text for kind, text in meanings.items() if kind in types)
        quotes = " (put it in quotes)" if isinstance(value, bool) and str in types else ""
        raise InputError(f"--{name} must be {expected}{quotes}, not {short(value)} ({source})")
    return result


def _plain_types(hint: Any) -> set[type]:
    """The types of YAML values that a type hint allows."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    types: set[type] = set()
    for option in options:
        origin = get_origin(option) or option
        if origin is Literal:
            types |= {type(value) for value in get_args(option)}
        elif isinstance(origin, type):
            types.add(str if issubclass(origin, Enum) else origin)
    return types


def short(value: Any) -> str:
    """A value for a message, cut after 80 characters."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all settings; `~` at the beginning of a path is the home folder.

    Raises:
        InputError: a number that is not finite or too large, or text that cannot name a file.
    """
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_checked(name, item) for item in value]
    if isinstance(value, int | float):
        check_number(name, value)
    if isinstance(value, str):
        _check_text(name, value)
        if name in PATHS:
            _check_path(name, value)
            return expanded(value)
    return value


def expanded(path: str) -> str:
    """The path with the home folder in place of a `~` at its beginning."""
    if path.startswith("~"):
        with suppress(RuntimeError):  # there is no such user
            return str(Path(path).expanduser())
    return path


def check_number(name: str, value: float) -> None:
    """Refuse numbers with which computations fail.

    Raises:
        InputError: names the setting.
    """
    most = SEEDS.get(name, MOST)
    if isinstance(value, int) and abs(value) >= most:
        raise InputError(f"--{name} must be a whole number below {most}")
    if math.isnan(value) or (math.isinf(value) and name not in MAY_BE_INFINITE):
        raise InputError(f"--{name} must be a finite number, not {value}")


def _check_text(name: str, value: str) -> None:
    # Half a surrogate pair stands for bytes that are no text.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"--{name}: {short(value)} is not text; remove its invalid characters")


def _check_path(name: str, value: str) -> None:
    if "://" in value:
        return
    longest = max((len(part.encode()) for part in PurePosixPath(value).parts), default=0)
    if longest > LONGEST_NAME or len(value.encode()) > LONGEST_PATH:
        raise InputError(
            f"--{name}: {short(value)} is too long: a file's name has at most {LONGEST_NAME} "
            f"bytes, a path {LONGEST_PATH}; choose a shorter one"
        )
