"""What one run forgets and another does not."""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from letgo.review.texts import Texts


class Difference(NamedTuple):
    """Two runs' choices among the texts that both have.

    Attributes:
        here: (texts of this run,) forgotten by this one and not by the other.
        there: (texts of this run,) forgotten by the other one only.
        both: (texts of this run,) forgotten by both.
        shared: how many texts both have, with the same prompt and answer under the same id.
    """

    here: np.ndarray
    there: np.ndarray
    both: np.ndarray
    shared: int


def compare(texts: Texts, selected: np.ndarray, other: Texts) -> Difference:
    """Hold the choices of two runs against each other.

    Args:
        texts: of this run.
        selected: (texts,) what this run forgets.
        other: the other run, as its folder says.
    """
    places = pc.index_in(texts.table["id"], value_set=other.table["id"].combine_chunks())
    theirs = other.table.take(places.fill_null(0)) if len(other.table) else texts.table
    known = np.asarray(places.is_valid().to_numpy(), bool)
    for name in ("prompt", "completion"):
        known &= np.asarray(pc.equal(texts.table[name], theirs[name]).to_numpy(), bool)
    taken = np.asarray(theirs["selected"].to_numpy(), bool)
    return Difference(
        known & selected & ~taken,
        known & ~selected & taken,
        known & selected & taken,
        int(known.sum()),
    )
