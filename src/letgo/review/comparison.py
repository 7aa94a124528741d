"""The tab that compares the selections of two runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pyarrow.compute as pc

from letgo.errors import InputError
from letgo.report.formats import clean
from letgo.review import html, view
from letgo.review.query import Query, find, take_page
from letgo.review.session import Review
from letgo.review.texts import RunTexts, open_texts


class Difference(NamedTuple):
    """The selections of two runs among the texts that both have.

    Attributes:
        here: (texts of this run,) selected in this run only.
        there: (texts of this run,) selected in the other run only.
        both: (texts of this run,) selected in both runs.
        shared: number of texts that both runs have, with the same id, prompt and answer.
    """

    here: np.ndarray
    there: np.ndarray
    both: np.ndarray
    shared: int


def compare(texts: RunTexts, selected: np.ndarray, other: RunTexts) -> Difference:
    """Compare this run's texts and selection (texts,) with another run."""
    indices = pc.index_in(texts.table["id"], value_set=other.table["id"].combine_chunks())
    aligned = other.table.take(indices.fill_null(0)) if len(other.table) else texts.table
    shared = np.asarray(indices.is_valid().to_numpy(), bool)
    for name in ("prompt", "completion"):
        shared &= np.asarray(pc.equal(texts.table[name], aligned[name]).to_numpy(), bool)
    theirs = np.asarray(aligned["selected"].to_numpy(), bool)
    return Difference(
        shared & selected & ~theirs,
        shared & ~selected & theirs,
        shared & selected & theirs,
        int(shared.sum()),
    )


SIDES = {
    "forgotten here, not there": "here",
    "forgotten there, not here": "there",
    "forgotten by both": "both",
}


def comparison_tab(blocks: gr.Blocks, review: Review, others: Sequence[Path]) -> None:
    """Fill the tab; `others` are the folders of other runs, those that the command named."""
    if not others:
        gr.HTML("<p>To compare, start <code>letgo review</code> with <code>--compare OTHER</code>.")
        return
    names = [(clean(str(other)), index) for index, other in enumerate(others)]
    with gr.Row(elem_id="runs"):
        folder = gr.Dropdown(names, value=0, label="Folder of the other run", elem_id="other")
        side = gr.Dropdown(list(SIDES), value=next(iter(SIDES)), label="Show", elem_id="side-shown")
        start = gr.Button("Compare", scale=0, min_width=140, elem_id="compare")
    message = gr.HTML(elem_id="difference")
    table = view.texts_table("compared")
    with gr.Row():
        back = gr.Button("Previous", size="sm")
        position = gr.HTML()
        onward = gr.Button("Next", size="sm")
    number = gr.State(1)

    def show(index: int, side: str, number: int) -> list[Any]:
        try:
            difference = compare(review.texts, review.selected, open_texts(others[index]))
        except InputError as error:
            return [f"<p>{html.escape(str(error))}</p>", [], "", 1]
        indices = find(review.texts, Query(), getattr(difference, SIDES[side]))
        on_page, number = take_page(indices, number)
        rows = view.table_rows(review, on_page)
        return [summary(review, difference), rows, view.position(number, len(indices)), number]

    ports = {"inputs": [folder, side, number], "outputs": [message, table, position, number]}
    first = [start.click, side.change, folder.change, blocks.load]
    gr.on(first, lambda index, side, _: show(index, side, 1), **ports, **view.QUIET)
    back.click(lambda index, side, number: show(index, side, number - 1), **ports, **view.QUIET)
    onward.click(lambda index, side, number: show(index, side, number + 1), **ports, **view.QUIET)


def summary(review: Review, difference: Difference) -> str:
    """The comparison in one sentence."""
    here, there, both = (int(np.sum(mask)) for mask in difference[:3])
    alone = len(review.ids) - difference.shared
    more = f" {alone:,} texts of this run are not in the other one." if alone else ""
    return (
        f"<p>Of {difference.shared:,} texts in both runs, both forget {both:,}; {here:,} are "
        f"forgotten here only, {there:,} there only.{more}</p>"
    )
