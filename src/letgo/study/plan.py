"""From STUDY.yaml to the cells of its grid."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from letgo.errors import InputError
from letgo.evaluation.asking import open_judged
from letgo.run.config import parse, read
from letgo.run.inputs import Run

METHOD_KEYS = {"settings", "learn", "forget", "seeds"}
CLAIM_KEYS = {"method", "baseline", "forget"}
SFT = "sft"


class Cell(NamedTuple):
    """One run: a learning task, a forgetting set, a method, a seed."""

    task: str
    forget: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        return f"{self.task}--{self.forget}--{self.method}--{self.seed}"


@dataclass(frozen=True)
class Study:
    """The content of STUDY.yaml.

    Args:
        settings: flags of `letgo run` for all cells.
        learn: flags by learning task, `learn` and `learn_test` among them.
        forget: forgetting prompts by set, as `--forget`. A set named like a learning task is not
            combined with it; a task's own learning data is left out of a set of several sources.
        methods: by method its `settings` (flags), and `learn`, `forget`, `seeds` unless all.
        seeds: seeds of methods without their own.
        claims: by name the `method`, its `baseline` and the `forget` set that are compared; with
            `returned`, the models that the runs returned by their validation sets.
    """

    settings: dict[str, Any]
    learn: dict[str, dict[str, Any]]
    forget: dict[str, list[str]]
    methods: dict[str, dict[str, Any]]
    seeds: list[int]
    claims: dict[str, dict[str, Any]]

    def cells(self) -> list[Cell]:
        """All cells, task by task and method by method.

        Neighbours differ in their seed: two runs with the same SFT baseline would wait for it.
        """
        cells = [
            Cell(task, forget, name, seed)
            for name, method in self.methods.items()
            for task in method.get("learn", self.learn)
            for forget in method.get("forget", self.forget)
            for seed in method.get("seeds", self.seeds)
            if forget != task
        ]
        return sorted(cells, key=lambda cell: list(self.learn).index(cell.task))

    def flags(self, cell: Cell) -> dict[str, Any]:
        """Flags of a cell's `letgo run` except its folder.

        `$NAME` is expanded here only: results shall not contain paths of a machine.
        """
        task = self.learn[cell.task]
        forget = {"forget": [s for s in self.forget[cell.forget] if s != task["learn"]]}
        method = self.methods[cell.method].get("settings", {})
        flags = {**self.settings, **task, **forget, **method, "seed": cell.seed}
        return {name: _expanded(value) for name, value in flags.items()}


def _expanded(value: Any) -> Any:
    """A flag's value, or its values, with environment variables in place of `$NAME`."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expandvars(value) if isinstance(value, str) else value


def settings_of(method: Mapping[str, Any]) -> str:
    """A method's settings as text, equal for methods that differ only in where they are run."""
    return json.dumps(method.get("settings", {}), sort_keys=True)


def open_cell(study: Study, cell: Cell) -> Run:
    """The data of a cell; raises `InputError` if `letgo run` would refuse it or the settings."""
    flags = {**study.flags(cell), "output_dir": f"(cell {cell.name[:50]})"}
    return open_judged(parse("run", [], flags))


def read_study(file: Path) -> Study:
    """Read and check STUDY.yaml.

    Raises:
        InputError: names a key that is missing, unknown or has a value of the wrong type.
    """
    content = {"settings": {}, "claims": {}, **read(file)}
    keys = [field.name for field in fields(Study)]
    for key, value in content.items():
        if key not in keys:
            raise InputError(f"{file}: unknown key {key!r}; the keys are {', '.join(keys)}")
        if not isinstance(value, list if key == "seeds" else dict):
            kind = "list" if key == "seeds" else "mapping"
            raise InputError(f"{file}: {key} must be a {kind}")
    for key in ("learn", "forget", "methods", "seeds"):
        if not content.get(key):
            raise InputError(f"{file}: {key} is missing")
    forget = {n: [v] if isinstance(v, str) else list(v) for n, v in content["forget"].items()}
    methods = {name: method or {} for name, method in content["methods"].items()}
    study = Study(**{**content, "forget": forget, "methods": methods})
    _check_study(file, study)
    return study


def _check_study(file: Path, study: Study) -> None:
    """Check names, and that tasks, methods and claims have the keys they need."""
    for name, task in study.learn.items():
        if not isinstance(task, dict) or not {"learn", "learn_test"} <= set(task):
            raise InputError(
                f"{file}: learn {name} needs learn and learn_test: "
                "all seeds must be evaluated on the same examples"
            )
    for name in [*study.learn, *study.methods, *study.forget]:
        if not isinstance(name, str) or "--" in name or "/" in name:
            raise InputError(f"{file}: {name!r} must be a name without / and --")
    for name, method in study.methods.items():
        _check_names(file, f"method {name}", method, METHOD_KEYS, study)
    for name, claim in study.claims.items():
        _check_names(file, f"claim {name}", claim, CLAIM_KEYS | {"returned"}, study)
        if set(claim) - {"returned"} != CLAIM_KEYS:
            raise InputError(f"{file}: claim {name} needs {', '.join(sorted(CLAIM_KEYS))}")
    if SFT in study.methods:
        raise InputError(f"{file}: a method cannot be called {SFT}: it is every run's baseline")


def _check_names(file: Path, where: str, entry: object, keys: set[str], study: Study) -> None:
    """Check that all keys of a method or claim are known, and that the names in it exist."""
    if not isinstance(entry, dict):
        raise InputError(f"{file}: {where} must be a mapping")
    if unknown := set(entry) - keys:
        raise InputError(f"{file}: {where} has an unknown key {sorted(unknown)[0]!r}")
    choices: dict[str, Collection[str]] = {
        "learn": study.learn,
        "forget": study.forget,
        "method": study.methods,
        "baseline": {*study.methods, SFT, "base"},
    }
    for key in choices.keys() & entry.keys():
        for name in entry[key] if isinstance(entry[key], list) else [entry[key]]:
            if name not in choices[key]:
                raise InputError(f"{file}: {where} names {key} {name!r}, which does not exist")
