"""Finding texts: filter, order, page."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from letgo.errors import InputError
from letgo.review.texts import Texts

PAGE = 25  # texts
# Column, and whether the lowest comes first.
SORTS = {
    "most confident first": ("confidence", False),
    "least confident first": ("confidence", True),
    "highest loss first": ("loss_base", False),
    "lowest loss first": ("loss_base", True),
    "longest first": ("tokens", False),
    "shortest first": ("tokens", True),
    "by set": ("forget_set", True),
}
BEST = next(iter(SORTS))


class Query(NamedTuple):
    """What is looked for.

    Attributes:
        forget_set: name of a set; empty for all.
        words: to be in the prompt or the answer, in any case; empty for all.
        sort: a key of `SORTS`.
    """

    forget_set: str = ""
    words: str = ""
    sort: str = BEST


def find(texts: Texts, query: Query, among: np.ndarray | None = None) -> np.ndarray:
    """Places of the texts that a query finds, in its order.

    Args:
        texts: of a run.
        query: what is looked for.
        among: (texts,) truth values; only these.
    """
    kept = np.ones(len(texts.table), bool) if among is None else among.copy()
    if query.forget_set:
        kept &= texts.column("forget_set") == query.forget_set
    if query.words:
        kept &= holding(texts.table, query.words)
    rows = np.flatnonzero(kept)
    column, ascending = SORTS[query.sort]
    values = texts.column(column)[rows]
    if values.dtype == object:  # names
        _, values = np.unique(values.astype(str), return_inverse=True)
    # Equal values keep the order of the file; undefined numbers come last either way.
    return rows[np.argsort(values if ascending else -values, kind="stable")]


def holding(table: pa.Table, words: str, expression: bool = False) -> np.ndarray:
    """Which texts hold these words in prompt or answer, in any case.

    Args:
        table: with `prompt` and `completion`.
        words: to look for.
        expression: whether `words` are a regular expression (RE2).

    Raises:
        InputError: no regular expression.
    """
    match = pc.match_substring_regex if expression else pc.match_substring
    try:
        found = [match(table[name], words, ignore_case=True) for name in ("prompt", "completion")]
    except pa.ArrowInvalid as error:
        raise InputError(f"--grep: {words!r} is no regular expression: {error}") from error
    return np.asarray(pc.or_(*found).to_numpy(), bool)


def pages(count: int) -> int:
    """How many pages so many texts fill; at least one."""
    return max(1, -(-count // PAGE))


def page(rows: np.ndarray, number: int) -> np.ndarray:
    """The rows of a page, counted from 1; one beyond the end is the last."""
    number = min(max(1, number), pages(len(rows)))
    return rows[(number - 1) * PAGE : number * PAGE]
