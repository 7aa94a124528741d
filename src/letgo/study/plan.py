"""From STUDY.yaml to the cells of its grid."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from letgo.errors import InputError
from letgo.run.config import read

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
        """Also the name of its folder."""
        return f"{self.task}--{self.forget}--{self.method}--{self.seed}"


@dataclass(frozen=True)
class Study:
    """What STUDY.yaml says.

    Args:
        settings: flags of `letgo run` for all cells.
        learn: flags of each learning task, `learn` and `learn_test` among them.
        forget: the forgetting prompts of each set, as `--forget`; one named like a learning task
            is not combined with it, and of a mixed set the task's own learning data is left out.
        methods: of each method its `settings` (flags), and which `learn`, `forget` and `seeds` it
            is tried on; all where it does not say.
        seeds: of all methods that do not say otherwise.
        claims: by name the `method`, its `baseline` and the `forget` set that are compared; with
            `returned`, the model that a run returns, by its validation set, instead of LWF's.
    """

    settings: dict[str, Any]
    learn: dict[str, dict[str, Any]]
    forget: dict[str, list[str]]
    methods: dict[str, dict[str, Any]]
    seeds: list[int]
    claims: dict[str, dict[str, Any]]

    def cells(self) -> list[Cell]:
        """All runs, task by task and method by method.

        Neighbours are of different seeds: of two runs at once that share a probe, one would wait.
        """
        tasks = list(self.learn)
        return sorted(self._of_methods(), key=lambda cell: tasks.index(cell.task))

    def _of_methods(self) -> Iterator[Cell]:
        for name, method in self.methods.items():
            for task in method.get("learn", self.learn):
                for forget in method.get("forget", self.forget):
                    for seed in method.get("seeds", self.seeds):
                        if forget != task:
                            yield Cell(task, forget, name, seed)

    def flags(self, cell: Cell) -> dict[str, Any]:
        """Settings of a cell's `letgo run`, but for its folder; `$NAME` in paths is filled in.

        Filled in only here, so that results do not hold the paths of a machine.
        """
        task = {
            name: os.path.expandvars(value) if isinstance(value, str) else value
            for name, value in self.learn[cell.task].items()
        }
        return {
            **self.settings,
            **task,
            "forget": [
                os.path.expandvars(source)
                for source in self.forget[cell.forget]
                if source != self.learn[cell.task]["learn"]
            ],
            **self.methods[cell.method].get("settings", {}),
            "seed": cell.seed,
        }


def settings_of(method: Mapping[str, Any]) -> str:
    """A method's settings as text: the same where two methods differ in where they are tried."""
    return json.dumps(method.get("settings", {}), sort_keys=True)


def read_study(file: Path) -> Study:
    """Read and check STUDY.yaml.

    Raises:
        InputError: names the key that is missing, unknown or of the wrong kind.
    """
    given = read(file)
    kinds = {
        "settings": dict,
        "learn": dict,
        "forget": dict,
        "methods": dict,
        "seeds": list,
        "claims": dict,
    }
    for key, value in given.items():
        if key not in kinds:
            raise InputError(f"{file}: unknown key {key!r}; there are {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise InputError(f"{file}: {key} must be a {_word(kinds[key])}")
    for key in ("learn", "forget", "methods", "seeds"):
        if not given.get(key):
            raise InputError(f"{file}: {key} is missing")
    forget = {n: [v] if isinstance(v, str) else list(v) for n, v in given["forget"].items()}
    study = Study(
        given.get("settings", {}),
        given["learn"],
        forget,
        {n: m or {} for n, m in given["methods"].items()},
        given["seeds"],
        given.get("claims", {}),
    )
    for name, task in study.learn.items():
        if not isinstance(task, dict) or not {"learn", "learn_test"} <= set(task):
            raise InputError(
                f"{file}: learn {name} needs learn and learn_test: all seeds must be asked the same"
            )
    for kind, names in (("learn", study.learn), ("method", study.methods), ("forget", forget)):
        for name in names:
            if not isinstance(name, str) or "--" in name or "/" in name:
                raise InputError(f"{file}: {kind} {name!r} must be a name without / and --")
    for name, method in study.methods.items():
        _check_names(file, f"method {name}", method, METHOD_KEYS, study)
    for name, claim in study.claims.items():
        _check_names(file, f"claim {name}", claim, CLAIM_KEYS | {"returned"}, study)
        if set(claim) - {"returned"} != CLAIM_KEYS:
            raise InputError(f"{file}: claim {name} needs {', '.join(sorted(CLAIM_KEYS))}")
    if SFT in study.methods:
        raise InputError(f"{file}: a method cannot be called {SFT}: every run has it beside it")
    return study


def _check_names(file: Path, where: str, given: Any, keys: set[str], study: Study) -> None:
    """All keys are known, and what they name exists."""
    if not isinstance(given, dict):
        raise InputError(f"{file}: {where} must be a mapping")
    if unknown := set(given) - keys:
        raise InputError(f"{file}: {where} has an unknown key {sorted(unknown)[0]!r}")
    known: dict[str, Collection[str]] = {
        "learn": study.learn,
        "forget": study.forget,
        "method": study.methods,
        "baseline": {*study.methods, SFT, "base"},
    }
    for key in known.keys() & given.keys():
        names = given[key] if isinstance(given[key], list) else [given[key]]
        for name in names:
            if name not in known[key]:
                raise InputError(f"{file}: {where} names {key} {name!r}, which is not there")


def _word(kind: type) -> str:
    return "list" if kind is list else "mapping"
