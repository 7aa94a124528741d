"""Values of the page's components, computed from a review and the page's controls."""

from typing import NamedTuple

import gradio as gr
import numpy as np

from letgo.errors import InputError
from letgo.report.formats import clean, shorten, significant
from letgo.review import html
from letgo.review.query import BEST, Query, find, page_count
from letgo.review.session import Review
from letgo.review.texts import in_a_line

HEADERS = ["id", "set", "confidence", "forget", "text"]
SUBSETS = {
    "all": "all texts",
    "selected": "to be forgotten",
    "kept": "kept",
    "person": "decided by a person",
    "changed": "changed by the last action",
}
# Options of events: gradio's queue can lose answers to events in quick succession.
QUIET = {"show_progress": "hidden", "queue": False}


class Controls(NamedTuple):
    """Values of the controls on the tab "Texts".

    Attributes:
        percent: number in the box for the share; None if it is empty.
        forget_set, words, sort: as in `Query`.
        subset: a key of `SUBSETS`.
        page: number of the page, from 1.
        opened: id of the text at the side; empty for none.
        coloured: whether its tokens are coloured by their loss.
    """

    percent: float | None = None
    forget_set: str = ""
    words: str = ""
    subset: str = "all"
    sort: str = BEST
    page: int = 1
    opened: str = ""
    coloured: bool = False


def find_texts(review: Review, controls: Controls) -> np.ndarray:
    """Indices of all texts that the controls list, in their order."""
    among = {
        "all": None,
        "selected": review.selected,
        "kept": ~review.selected,
        "person": review.person != 0,
        "changed": review.selected != review.previous,
    }[controls.subset]
    query = Query(controls.forget_set, controls.words.strip(), controls.sort)
    return find(review.texts, query, among)


def describe(controls: Controls, count: int) -> str:
    """The listed texts in words."""
    text = f"{count:,} texts"
    if controls.subset != "all":
        text += f", {SUBSETS[controls.subset]}"
    if controls.forget_set:
        text += f" of the set {clean(controls.forget_set)}"
    if words := controls.words.strip():
        text += f' with "{shorten(clean(words), 40)}"'
    return text


def table_rows(review: Review, indices: np.ndarray) -> list[list[str]]:
    """Texts as rows of the table, in the order of `HEADERS`."""
    texts = review.texts.table.take(indices).to_pylist()
    return [
        [
            clean(text["id"]),
            clean(text["forget_set"]),
            significant(text["confidence"], 4),
            ("yes" if review.selected[index] else "no") + ("*" if review.person[index] else ""),
            in_a_line(text, 200),
        ]
        for index, text in zip(indices, texts, strict=True)
    ]


def texts_table(elem_id: str) -> gr.Dataframe:
    """An empty table of texts."""
    return gr.Dataframe(
        headers=HEADERS,
        datatype="str",
        interactive=False,
        type="array",
        elem_id=elem_id,
        buttons=[],
        max_height=1000,
        column_widths=[150, 80, 105, 75, 300],
    )


def position(number: int, count: int) -> str:
    """The page number, the number of pages and the number of texts, in words."""
    return f"page {number:,} of {page_count(count):,} ({count:,} texts)"


def percent(review: Review) -> float:
    """Share of the texts that the score selects, as the number box shows it."""
    return round(100 * review.fraction, 2)


def text(review: Review, name: str, coloured: bool) -> str:
    """The text with this id as HTML, coloured if the base model can be loaded."""
    if name not in review.index_of:
        return '<p class="label">Choose a text in the table to read it.</p>'
    pieces, note = None, ""
    try:
        if coloured:
            from letgo.review.token_losses import losses_by_piece  # imports torch

            pieces = losses_by_piece(review.folder, name)
    except InputError as error:
        note = f"not coloured: {error}"
    return html.text(review, review.index_of[name], pieces, note)


def decision_buttons(
    labels: dict[str, str], prefix: str, label: str, can_decide: bool
) -> dict[str, gr.Button]:
    """A row with one button per decision, by decision.

    Args:
        labels: the names of the decisions.
        prefix: of the buttons' element ids.
        label: of a button; `{}` stands for the name of its decision.
        can_decide: whether the buttons can be pressed.
    """
    with gr.Row():
        return {
            act: gr.Button(
                label.format(name),
                size="sm",
                interactive=can_decide,
                elem_id=f"{prefix}-{act.replace(' ', '-')}",
            )
            for act, name in labels.items()
        }
