"""The scored texts of a run as columns, fast enough for a hundred thousand of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from letgo.errors import InputError
from letgo.report.formats import clean, shorten
from letgo.run import decisions
from letgo.run.folder import is_run, read_config, read_texts


class RunTexts(NamedTuple):
    """Every scored text of a run, in the order of `scores.parquet`.

    Attributes:
        config: settings of the run.
        table: `id, forget_set, tokens, loss_base, confidence, score, prompt, completion,
            finish_reason, selected, decided_by, decided_at`.
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
            `select` is missing.
    """
    if not is_run(folder):
        raise InputError(f"{folder} is not a run of letgo; give the --output_dir of one")
    config = read_config(folder)
    if config.get("forget") == []:
        raise InputError(f"{folder} is a run without a forgetting set; it has no texts to unlearn")
    return RunTexts(config, read_texts(folder, leave_out=("prompt_ids", "completion_ids")))


def in_a_line(text: dict[str, Any], length: int) -> str:
    """Prompt and answer on one line of at most `length` characters, safe to display."""
    return shorten(" ".join(clean(f"{text['prompt']} -> {text['completion']}").split()), length)
