"""The tab that holds two runs against each other."""

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pyarrow.compute as pc

from letgo.errors import InputError
from letgo.review import html as pieces
from letgo.review import view
from letgo.review.query import Query, find, page, pages
from letgo.review.session import Review
from letgo.review.texts import Texts, open_texts


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


SIDES = {
    "forgotten here, not there": "here",
    "forgotten there, not here": "there",
    "forgotten by both": "both",
}


def comparison_tab(whole: gr.Blocks, review: Review, other: Path | None) -> None:
    """Fill the tab.

    Args:
        whole: the page that holds it.
        review: of this run.
        other: folder of the other run, if one was named.
    """
    with gr.Row():
        folder = gr.Textbox(str(other or ""), label="Folder of the other run", elem_id="other")
        side = gr.Dropdown(list(SIDES), value=next(iter(SIDES)), label="Show", elem_id="which")
        start = gr.Button("Compare", elem_id="compare")
    said = gr.HTML(elem_id="difference")
    table = view.table("compared")
    with gr.Row():
        back = gr.Button("Previous", size="sm")
        position = gr.HTML()
        onward = gr.Button("Next", size="sm")
    number = gr.State(1)

    def show(path: str, which: str, at: int) -> list[Any]:
        if not path.strip():
            return ["<p>Give the folder of a run with the same texts.</p>", [], "", 1]
        try:
            found = compare(review.texts, review.selected, open_texts(Path(path.strip())))
        except InputError as error:
            return [f"<p>{pieces.plain(str(error))}</p>", [], "", 1]
        rows = find(review.texts, Query(), getattr(found, SIDES[which]))
        at = min(max(1, at), pages(len(rows)))
        lines = view.lines(review, page(rows, at))
        return [summary(review, found), lines, view.position(at, len(rows)), at]

    inputs, outputs = [folder, side, number], [said, table, position, number]
    for event in (start.click, side.change, folder.submit):
        event(
            lambda path, which, _: show(path, which, 1),
            inputs,
            outputs,
            show_progress="hidden",
            queue=False,
        )
    for button, step in ((back, -1), (onward, 1)):
        button.click(
            lambda path, which, at, step=step: show(path, which, at + step),
            inputs,
            outputs,
            show_progress="hidden",
            queue=False,
        )
    if other is not None:
        whole.load(show, inputs, outputs, show_progress="hidden", queue=False)


def summary(review: Review, found: Difference) -> str:
    """The comparison in a sentence."""
    here, there, both = (int(np.sum(part)) for part in found[:3])
    alone = len(review.ids) - found.shared
    more = f" {alone:,} texts of this run are not in the other one." if alone else ""
    return (
        f"<p>Of {found.shared:,} texts in both runs, both forget {both:,}; {here:,} are forgotten "
        f"here only, {there:,} there only.{more}</p>"
    )
