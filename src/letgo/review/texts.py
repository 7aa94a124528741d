"""The texts of a run as columns, fit for a hundred thousand of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from letgo.errors import InputError
from letgo.report.formats import clean, shorten
from letgo.run import decisions
from letgo.run.folder import is_run, read_config, read_table

FILES = {
    "self_knowledge.parquet": "elicit",
    "scores.parquet": "score",
    "selection.parquet": "select",
}
WORDS = ["id", "prompt", "completion", "finish_reason"]
NUMBERS = ["id", "forget_set", "tokens", "loss_base", "confidence", "score"]


class Texts(NamedTuple):
    """Every scored text of a run, in the order of `scores.parquet`.

    Attributes:
        folder: the run's folder.
        config: its settings.
        table: `id, forget_set, tokens, loss_base, confidence, score, prompt, completion,
            finish_reason, selected, decided_by, decided_at`.
    """

    folder: Path
    config: dict[str, Any]
    table: pa.Table

    def column(self, name: str) -> np.ndarray:
        """A column of numbers or truth values."""
        return np.asarray(self.table[name].to_numpy())

    @property
    def ids(self) -> list[str]:
        """Of all texts."""
        ids: list[str] = self.table["id"].to_pylist()
        return ids

    @property
    def sets(self) -> list[str]:
        """The names of the forgetting sets, sorted."""
        return sorted(self.table["forget_set"].unique().to_pylist())

    @property
    def score(self) -> str:
        """What the confidence is."""
        return str(self.table["score"][0]) if len(self.table) else "none"

    @property
    def which(self) -> str:
        """What the score chooses: "top", or as controls "bottom" or "random"."""
        return str(self.config.get("selection", "top"))

    def order(self) -> list[int]:
        """Places of the texts in the order in which the score chooses them."""
        confidence = self.table["confidence"].to_pylist()
        seed = int(self.config.get("seed", 42))
        return decisions.rank(self.ids, confidence, self.which, seed)


def open_texts(folder: Path) -> Texts:
    """Read the texts of a run, their scores and what is chosen of them.

    Raises:
        InputError: no run, or one without scores; names the command that makes them.
    """
    if not is_run(folder):
        raise InputError(f"{folder} is not a run of letgo; give the --output_dir of one")
    for file, stage in FILES.items():
        if not (folder / file).is_file():
            raise InputError(
                f"{folder} has no {file}; make it by `letgo {stage} --output_dir {folder}`"
            )
    scores = read_table(folder / "scores.parquet", NUMBERS).combine_chunks()
    words = _along(scores, read_table(folder / "self_knowledge.parquet", WORDS).combine_chunks())
    chosen = _along(scores, read_table(folder / "selection.parquet").combine_chunks())
    if "decided_by" not in chosen.column_names:  # made before there were reviews
        chosen = chosen.append_column("decided_by", pa.array(["score"] * len(chosen), pa.string()))
        chosen = chosen.append_column("decided_at", pa.nulls(len(chosen), pa.string()))
    for source, names in ((words, WORDS[1:]), (chosen, ["selected", "decided_by", "decided_at"])):
        for name in names:
            scores = scores.append_column(name, source[name])
    return Texts(folder, read_config(folder), scores)


def _along(scores: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of `other` in the order of the scores."""
    if other["id"].equals(scores["id"]):
        return other
    places = pc.index_in(scores["id"], value_set=other["id"].combine_chunks())
    if places.null_count:
        raise InputError(
            "scores.parquet and the files beside it are of different texts; make them again by "
            "`letgo run --overwrite`"
        )
    return other.take(places)


def in_a_line(text: dict[str, Any], most: int) -> str:
    """Prompt and answer of a text, fit to be shown, in at most so many letters."""
    return shorten(" ".join(clean(f"{text['prompt']} -> {text['completion']}").split()), most)
