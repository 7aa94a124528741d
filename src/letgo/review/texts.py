"""The scored texts of a run as columns, fast enough for a hundred thousand of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from letgo.errors import InputError, printable
from letgo.report.formats import shorten
from letgo.run import decisions
from letgo.run.folder import (
    AUDIT,
    SCORES,
    is_run,
    read_config,
    read_table,
    read_texts,
    readable,
    require,
)

COLUMNS = {
    **dict.fromkeys(("id", "forget_set", "prompt", "completion"), pa.string()),
    **dict.fromkeys(("score", "finish_reason", "decided_by"), pa.string()),
    **dict.fromkeys(("confidence", "loss_base"), pa.float64()),
    "tokens": pa.int64(),
    "selected": pa.bool_(),
}
AUDIT_COLUMNS = (
    "id",
    "prompt",
    "completion",
    "loss_ref",
    "interference",
    "gradient",
    "confidence",
    "suspected",
)
MODES = ("top", "bottom", "random")


class RunTexts(NamedTuple):
    """Every scored text of a run, in the order of `scores.parquet`.

    Attributes:
        config: settings of the run.
        table: the columns of `COLUMNS`, without nulls.
    """

    config: dict[str, Any]
    table: pa.Table

    def column(self, name: str) -> np.ndarray:
        """(texts,) values of a column."""
        return np.asarray(self.table[name].to_numpy())

    @property
    def ids(self) -> list[str]:
        """Ids of all texts."""
        return list(self.table["id"].to_pylist())

    @property
    def sets(self) -> list[str]:
        """Names of the forgetting sets, sorted."""
        return sorted(self.table["forget_set"].unique().to_pylist())

    @property
    def score(self) -> str:
        """Name of the score in the column `confidence`."""
        return str(self.table["score"][0]) if len(self.table) else "none"

    @property
    def selection_mode(self) -> str:
        """The setting `--selection`: "top", or the controls "bottom" and "random"."""
        return str(self.config.get("selection", "top"))

    def ranking(self) -> list[int]:
        """Indices of the texts in the order in which the score selects them."""
        confidence = self.table["confidence"].to_pylist()
        seed = int(self.config.get("seed", 42))
        return decisions.rank(self.ids, confidence, self.selection_mode, seed)


def open_texts(folder: Path) -> RunTexts:
    """Read the texts of a run with their scores and selection.

    Raises:
        InputError: the folder is not a run, the run has no forgetting set, or a stage up to
            `select` is missing or its file damaged.
    """
    require_run(folder)
    config = read_config(folder)
    if (folder / AUDIT.name).exists() and not (folder / SCORES.name).exists():
        raise InputError(f"{folder} is an audit of learning examples; it has no texts to unlearn")
    if config.get("forget") == []:
        raise InputError(f"{folder} is a run without a forgetting set; it has no texts to unlearn")
    _check(config, folder / "config.yaml")
    with readable(folder / SCORES.name):
        table = read_texts(folder, leave_out=("prompt_ids", "completion_ids"))
        columns = {name: table[name].cast(kind) for name, kind in COLUMNS.items()}
        for name, values in columns.items():
            if values.null_count:
                raise ValueError(f"the column {name} has gaps")
    return RunTexts(config, pa.table(columns))


def open_audit(folder: Path) -> pa.Table | None:
    """The rows of `audit.parquet`; None if the run has no audit.

    Raises:
        InputError: the file is damaged.
    """
    if not (folder / AUDIT.name).exists():
        return None
    return read_table(require(folder, AUDIT), list(AUDIT_COLUMNS))


def open_review(folder: Path) -> tuple[RunTexts, pa.Table | None]:
    """The texts of a run, of which an audit alone has none, and the rows of its audit.

    Raises:
        InputError: as in `open_texts` and `open_audit`.
    """
    require_run(folder)
    audit = open_audit(folder)
    if audit is None or (folder / SCORES.name).exists():
        return open_texts(folder), audit
    config = read_config(folder)
    _check(config, folder / "config.yaml")
    return RunTexts(config, pa.schema(COLUMNS).empty_table()), audit


def require_run(folder: Path) -> None:
    """Check that letgo created this folder.

    Raises:
        InputError: it did not.
    """
    try:
        reason = "" if is_run(folder) else "it is not a run of letgo"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        name = shorten(str(folder), 200)
        raise InputError(f"{name}: {reason}; give the --output_dir of a run")


def _check(config: dict[str, Any], file: Path) -> None:
    """Check the settings of the selection."""
    try:
        valid = 0 < float(config.get("forget_fraction", 0.5)) <= 1
        int(config.get("seed", 42))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid or config.get("selection", "top") not in MODES:
        raise InputError(
            f"{file}: forget_fraction must be above 0 and at most 1, seed a whole number, and "
            f"selection one of {', '.join(MODES)}; correct it"
        )


def in_a_line(text: dict[str, Any], length: int) -> str:
    """Prompt and answer on one line of at most `length` characters, safe to display."""
    line = " ".join(f"{text['prompt']} -> {text['completion']}".split())
    return shorten(printable(line), length)
