"""From a review and what is looked for to the values that the page shows."""

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from letgo.errors import InputError
from letgo.report.formats import clean, shorten, significant
from letgo.review import html as pieces
from letgo.review import token_losses as tokens
from letgo.review.query import Query, find, page, pages
from letgo.review.session import Review
from letgo.review.texts import in_a_line

HEADERS = ["id", "set", "confidence", "forget", "text"]
SHOWN = {
    "all": "all texts",
    "chosen": "to be forgotten",
    "kept": "kept",
    "person": "decided by a person",
    "moved": "moved by the last step",
}


class Look(NamedTuple):
    """Where somebody is looking: the query, which texts, the page.

    Attributes:
        query: what is looked for.
        shown: a key of `SHOWN`.
        page: counted from 1.
    """

    query: Query
    shown: str = "all"
    page: int = 1


def found(review: Review, look: Look) -> np.ndarray:
    """Places of all texts that are looked at, in their order."""
    among = {
        "all": None,
        "chosen": review.selected,
        "kept": ~review.selected,
        "person": review.person != 0,
        "moved": review.selected != review.before,
    }[look.shown]
    return find(review.texts, look.query, among)


def lines(review: Review, rows: np.ndarray) -> list[list[str]]:
    """Texts as rows of the table, all of them plain strings."""
    texts = review.texts.table.take(rows).to_pylist()
    return [
        [
            clean(text["id"]),
            clean(text["forget_set"]),
            significant(text["confidence"], 4),
            ("yes" if review.selected[row] else "no") + ("*" if review.person[row] else ""),
            in_a_line(text, 200),
        ]
        for row, text in zip(rows, texts, strict=True)
    ]


def table(name: str) -> gr.Dataframe:
    """An empty table of texts, under a name for the style sheet."""
    return gr.Dataframe(
        headers=HEADERS,
        datatype="str",
        interactive=False,
        type="array",
        elem_id=name,
        buttons=[],
        max_height=1000,
        column_widths=[130, 80, 105, 75, 320],
    )


def percent(review: Review) -> float:
    """The share that the score chooses, as the slider shows it."""
    return round(100 * review.fraction, 1)


def named(review: Review, look: Look, count: int) -> str:
    """The texts that are looked at, in words."""
    said = f"{count:,} texts"
    if look.shown != "all":
        said += f", {SHOWN[look.shown]}"
    if look.query.forget_set:
        said += f" of the set {clean(look.query.forget_set)}"
    if look.query.words:
        said += f' with "{shorten(clean(look.query.words), 40)}"'
    return said


def position(number: int, count: int) -> str:
    """Which page of how many, in words."""
    last = pages(count)
    return f"page {min(max(1, number), last):,} of {last:,} ({count:,} texts)"


def text(review: Review, name: str, coloured: bool) -> str:
    """One text as HTML, coloured by loss where that is asked for and the base model can be had."""
    if name not in review.places:
        return '<p class="label">Choose a text in the table to read it.</p>'
    row = review.places[name]
    if not coloured:
        return pieces.opened(review, row, None)
    try:
        return pieces.opened(review, row, tokens.pieces(review.folder, name))
    except InputError as error:
        return pieces.opened(review, row, None, f"not coloured: {error}")


def first_page(review: Review, look: Look) -> tuple[np.ndarray, list[list[str]], Any]:
    """All places that are looked at, the lines of the page, and its position."""
    rows = found(review, look)
    return rows, lines(review, page(rows, look.page)), position(look.page, len(rows))


def brief(what: str) -> str:
    """An act for a button."""
    return shorten(clean(what), 40)


def title(folder: Path) -> str:
    """The name of a run for a page."""
    return clean(folder.resolve().name)
