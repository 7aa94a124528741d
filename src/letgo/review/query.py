"""Filter, sort and page texts."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from letgo.errors import InputError, first_line
from letgo.report.formats import shorten
from letgo.review.texts import RunTexts

PAGE = 25  # texts per page
LONGEST = 1_000  # characters of a text to search for, and of any other value from the page
# Column, and whether the lowest value comes first.
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
    """A filter and an order.

    Attributes:
        forget_set: name of a set; empty for all.
        words: string that prompt or answer must contain, ignoring case; empty for any text.
        sort: a key of `SORTS`.
    """

    forget_set: str = ""
    words: str = ""
    sort: str = BEST


def find(texts: RunTexts, query: Query, among: np.ndarray | None = None) -> np.ndarray:
    """Indices of the matching texts in the order of the query; `among` (texts,) is a mask."""
    mask = np.ones(len(texts.table), bool) if among is None else among.copy()
    if query.forget_set:
        mask &= texts.column("forget_set") == query.forget_set
    if query.words:
        mask &= contains(texts.table, query.words)
    indices = np.flatnonzero(mask)
    column, ascending = SORTS[query.sort]
    values = texts.column(column)[indices]
    if values.dtype == object:  # strings: sort by their ranks
        _, values = np.unique(values.astype(str), return_inverse=True)
    # Equal values keep the order of the file; NaN comes last in both directions.
    return indices[np.argsort(values if ascending else -values, kind="stable")]


def contains(table: pa.Table, words: str, regex: bool = False) -> np.ndarray:
    """(texts,) booleans: whether `prompt` or `completion` contains the words, ignoring case.

    With `regex`, `words` is a regular expression in RE2's syntax.

    Raises:
        InputError: the words are too long, or the regular expression is not valid.
    """
    if len(words) > LONGEST:
        flag = "--grep: " * regex
        raise InputError(f"{flag}a text to search for may have {LONGEST:,} characters at most")
    match = pc.match_substring_regex if regex else pc.match_substring
    try:
        masks = [match(table[name], words, ignore_case=True) for name in ("prompt", "completion")]
    except pa.ArrowInvalid as error:
        reason = shorten(first_line(error), 200)
        raise InputError(
            f"--grep: {shorten(words, 60)!r} is not a valid regular expression: {reason}"
        ) from error
    return np.asarray(pc.or_(*masks).to_numpy(), bool)


def page_count(count: int) -> int:
    """Number of pages for this many texts, at least one."""
    return max(1, -(-count // PAGE))


def take_page(indices: np.ndarray, number: int) -> tuple[np.ndarray, int]:
    """The indices on a page, and its number, from 1 and limited to the pages there are."""
    number = min(max(1, number), page_count(len(indices)))
    return indices[(number - 1) * PAGE : number * PAGE], number
