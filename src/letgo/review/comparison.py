"""The tab that holds two runs against each other."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from letgo.errors import InputError
from letgo.review import pieces, view
from letgo.review.compare import Difference, compare
from letgo.review.session import Review
from letgo.review.table import Query, find, page, pages
from letgo.review.texts import open_texts

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
