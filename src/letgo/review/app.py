"""The page of the review: what stands where, and what happens when it is touched."""

import os
from collections.abc import Callable
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any

# Before gradio is imported: nothing leaves the machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from letgo.errors import InputError
from letgo.review import html as pieces
from letgo.review import view
from letgo.review.comparison import comparison_tab
from letgo.review.query import BEST, SORTS, Query, pages
from letgo.review.session import Review
from letgo.review.view import Look
from letgo.run.decisions import BY_SCORE, EXCLUDE, INCLUDE

VERBS = {INCLUDE: "Forget", EXCLUDE: "Keep", BY_SCORE: "Leave to the score"}
# gradio says that a slider is let go of when the mouse does it, not when keys do.
KEYS = """() => {
  document.addEventListener("input", ({target}) => {
    if (target.matches("#share input")) window.shareMoved = true;
  });
  document.addEventListener("keyup", ({target, key}) => {
    if (target.matches("#share input") && (target.type == "range" || key == "Enter"))
      target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
  });
}"""
# It says so too when the box is merely left: a click on Undo would be undone by what it leaves.
ONCE = """(percent, ...others) => {
  const moved = window.shareMoved;
  window.shareMoved = false;
  return [moved ? percent : null, ...others];
}"""
# Fonts that the machine has: the default theme asks the network for its own.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def mount(server: Any, review: Review, other: Path | None) -> Any:
    """Put the review's page at the root of a FastAPI app."""
    return gr.mount_gradio_app(
        server,
        build(review, other),
        path="/",
        theme=gr.themes.Default(**FONTS),
        ssr_mode=False,
        css=resources.files("letgo.review").joinpath("review.css").read_text(),
        js=KEYS,
        footer_links=[],
    )


def build(review: Review, other: Path | None) -> gr.Blocks:
    """The page.

    Args:
        review: of the run.
        other: folder of a run to compare with, if one was named.
    """
    name = view.title(review.folder)
    with gr.Blocks(title=f"letgo review {name}", analytics_enabled=False) as page:
        with gr.Row(elem_id="head"):
            status = gr.HTML()
            undo = gr.Button("Undo", size="sm", scale=0, min_width=220, elem_id="undo")
        with gr.Tab("Texts"):
            _texts_tab(page, review, status, undo)
        with gr.Tab("Compare"):
            comparison_tab(page, review, other)
    return page


def _texts_tab(page: gr.Blocks, review: Review, status: gr.HTML, undo: gr.Button) -> None:
    can = not review.read_only
    with gr.Row():
        with gr.Column(scale=3):
            picture = gr.HTML(elem_id="picture")
            share = gr.Slider(
                0.1,
                100,
                step=0.1,
                interactive=can,
                elem_id="share",
                buttons=[],
                label="Share of the texts that the score chooses, in per cent",
            )
            with gr.Row():
                forget_set = gr.Dropdown(
                    [("all sets", ""), *review.texts.sets], value="", label="Set", elem_id="set"
                )
                words = gr.Textbox(label="Text holds", elem_id="words")
                shown = gr.Dropdown(
                    [(said, key) for key, said in view.SHOWN.items()],
                    value="all",
                    label="Show",
                    elem_id="shown",
                )
                sort = gr.Dropdown(list(SORTS), value=BEST, label="Order", elem_id="sort", scale=2)
            table = view.table("texts")
            with gr.Row():
                back = gr.Button("Previous", size="sm", elem_id="back")
                position = gr.HTML(elem_id="position")
                onward = gr.Button("Next", size="sm", elem_id="onward")
            scope = gr.HTML(elem_id="scope")
            with gr.Row():
                whole = {
                    act: gr.Button(
                        f"{verb}: all of these",
                        size="sm",
                        interactive=can,
                        elem_id=f"all-{act.replace(' ', '-')}",
                    )
                    for act, verb in VERBS.items()
                }
        with gr.Column(scale=2, elem_id="side"):
            text = gr.HTML(elem_id="text")
            with gr.Row():
                single = {
                    act: gr.Button(
                        verb, size="sm", interactive=can, elem_id=f"one-{act.replace(' ', '-')}"
                    )
                    for act, verb in VERBS.items()
                }
            coloured = gr.Checkbox(
                label="colour tokens by loss (loads the base model)", elem_id="coloured"
            )
    number, name = gr.State(1), gr.State("")
    controls = [forget_set, words, shown, sort, number, name, coloured]
    outputs = [status, picture, share, table, position, scope, undo, number, text]

    def look(*given: Any) -> Look:
        return Look(Query(given[0], given[1].strip(), given[3]), given[2], given[4])

    def fill(*given: Any) -> list[Any]:
        """All outputs, for the controls' values."""
        where = look(*given)
        rows, lines, said = view.first_page(review, where)
        last = review.acts[-1].what if review.acts else ""
        return [
            pieces.status(review),
            pieces.histogram(review),
            view.percent(review),
            lines,
            said,
            f"<p>These: {pieces.plain(view.named(review, where, len(rows)))}</p>",
            gr.Button(
                f"Undo: {view.brief(last)}" if last else "Undo", interactive=can and bool(last)
            ),
            min(max(1, where.page), pages(len(rows))),
            view.text(review, given[5], given[6]),
        ]

    def on(
        event: Any,
        work: Callable[..., Any],
        inputs: list[Any],
        results: list[Any],
        js: str | None = None,
    ) -> None:
        # Not through gradio's queue: its answers to events close upon one another could get lost.
        event(
            _told(work),
            inputs,
            results,
            show_progress="hidden",
            trigger_mode="always_last",
            queue=False,
            js=js,
        )

    def begin(*given: Any) -> list[Any]:
        if review.read_only or review.is_stale():
            review.load()
        return fill(*given)

    def anew(*given: Any) -> list[Any]:
        return fill(*given[:4], 1, *given[5:])

    def turn(step: int) -> Callable[..., list[Any]]:
        return lambda *given: fill(*given[:4], given[4] + step, *given[5:])

    def decide_all(act: str) -> Callable[..., list[Any]]:
        def work(*given: Any) -> list[Any]:
            where = look(*given)
            rows = view.found(review, where)
            review.decide(act, rows, f"{VERBS[act]}: {view.named(review, where, len(rows))}")
            return fill(*given)

        return work

    def decide_one(act: str) -> Callable[..., list[Any]]:
        def work(*given: Any) -> list[Any]:
            if given[5] not in review.places:
                raise InputError("choose a text in the table first")
            review.decide(act, [review.places[given[5]]], f"{VERBS[act]}: {given[5]}")
            return fill(*given)

        return work

    def take_back(*given: Any) -> list[Any]:
        review.undo()
        return fill(*given)

    def move(percent: float | None, *given: Any) -> list[Any]:
        if percent is None:  # not moved: what the page shows may be newer than `given`
            return [gr.skip()] * len(outputs)
        with review.turn:
            if percent != view.percent(review):  # the slider rounds
                review.move(percent / 100)
            return fill(*given)

    def preview(percent: float | None) -> list[Any]:
        # Whole before the threshold is moved, or after: else its answer could come after that one.
        with review.turn:
            if not percent or percent == view.percent(review):  # let go of in the meantime
                return [pieces.histogram(review), pieces.status(review)]
            tried = percent / 100
            return [pieces.histogram(review, tried), pieces.trial(*review.moved(tried))]

    def open_text(chosen: gr.SelectData, paint: bool) -> list[Any]:
        return [chosen.row_value[0], view.text(review, chosen.row_value[0], paint)]

    on(page.load, begin, controls, outputs)
    # Not `input`: a drop-down list says that as well when it is merely left.
    for control in (forget_set, words, shown, sort):
        on(control.change, anew, controls, outputs)
    on(back.click, turn(-1), controls, outputs)
    on(onward.click, turn(1), controls, outputs)
    for act in VERBS:
        on(whole[act].click, decide_all(act), controls, outputs)
        on(single[act].click, decide_one(act), controls, outputs)
    on(undo.click, take_back, controls, outputs)
    on(share.input, preview, [share], [picture, status])
    on(share.release, move, [share, *controls], outputs, ONCE)
    on(table.select, open_text, [coloured], [name, text])
    on(coloured.input, lambda *given: view.text(review, given[5], given[6]), controls, [text])


def _told(work: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong is said on the page."""

    @wraps(work)
    def wrapped(*given: Any) -> Any:
        try:
            return work(*given)
        except InputError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    return wrapped
