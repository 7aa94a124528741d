"""Reading a YAML file of settings that anybody may have written."""

from pathlib import Path
from typing import Any

import yaml

from letgo.errors import InputError, first_line

# A file of settings has a few kilobytes; far more values than that is an alias bomb.
MOST_BYTES, MOST_VALUES = 256 << 10, 50_000
PROVENANCE = "provenance"  # what letgo adds to the `config.yaml` of a run


def read(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, without the provenance that letgo adds to `config.yaml`.

    Raises:
        InputError: no such file, not YAML, a name that is given twice, or not a mapping.
    """
    settings = _content(file)
    settings.pop(PROVENANCE, None)
    return settings


def is_of_a_run(file: Path) -> bool:
    """Whether a file of settings is the `config.yaml` of a run.

    Raises:
        InputError: as in `read`.
    """
    return PROVENANCE in _content(file)


def _content(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"cannot read {file}: {reason}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{file} has over {MOST_BYTES >> 10} kB; give a YAML file of settings")
    try:
        settings = _parse(content.decode("utf-8-sig"), file)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # PyYAML raises KeyError, AttributeError and others, too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file} is not YAML: {reason}") from error
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InputError(f"{file} must be a mapping of settings, one `name: value` a line")
    return settings


def _parse(text: str, file: Path) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, file, {}) > MOST_VALUES:
            raise InputError(f"{file}: its aliases (*) expand to too many values; write them out")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, file: Path, sizes: dict[int, int]) -> int:
    """The number of values below a node, those of an alias counted each time it is used."""
    if not isinstance(node.value, list):
        return 1
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = MOST_VALUES + 1  # until it is counted: for an alias that contains itself
    children = node.value
    if isinstance(node, yaml.MappingNode):
        _require_distinct([key for key, _ in children], file)
        children = [child for pair in children for child in pair]
    sizes[id(node)] = 1 + sum(_size(child, file, sizes) for child in children)
    return sizes[id(node)]


def _require_distinct(keys: list[yaml.Node], file: Path) -> None:
    seen: set[str] = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"{file} line {line}: {key.value} is given twice; remove one")
            seen.add(key.value)
