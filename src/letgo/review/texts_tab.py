"""The tab that lists the texts and takes decisions on them."""

from collections.abc import Callable, Sequence
from functools import partial

import gradio as gr

from letgo.errors import InputError
from letgo.report.formats import clean, shorten
from letgo.review import html, view
from letgo.review.query import BEST, LONGEST, SORTS, take_page
from letgo.review.session import Review
from letgo.review.view import Controls
from letgo.run.decisions import BY_SCORE, EXCLUDE, INCLUDE

LABELS = {INCLUDE: "Forget", EXCLUDE: "Keep", BY_SCORE: "Leave to the score"}

Updates = dict[gr.Component, object]  # new values of components


class TextsTab:
    """Components of the tab and of the page's head, and the handlers of their events."""

    def __init__(self, review: Review, status: gr.HTML, undo: gr.Button):
        self.review, self.status, self.undo = review, status, undo
        self.can_decide = not review.read_only
        with gr.Row():
            with gr.Column(scale=3):
                self._add_threshold()
                self._add_filters()
                self._add_table()
                self.scope = gr.HTML(elem_id="scope")
                self.all_buttons = self._add_buttons("all", "{}: all of these")
            with gr.Column(scale=2, elem_id="side"):
                self.text = gr.HTML(elem_id="text")
                self.one_buttons = self._add_buttons("one", "{}")
                self.coloured = gr.Checkbox(
                    label="colour tokens by loss, underline what learning has made less likely "
                    "(loads the models)",
                    elem_id="coloured",
                )
        self.opened = gr.State("")

    def _add_threshold(self) -> None:
        self.picture = gr.HTML(elem_id="picture")
        with gr.Row(elem_id="threshold"):
            self.share = gr.Number(
                label="Share of the texts that the score chooses, per cent",
                step=0.1,
                interactive=self.can_decide,
                min_width=400,
                elem_id="share",
            )
            self.apply = gr.Button(
                "Apply", scale=0, min_width=100, interactive=self.can_decide, elem_id="apply"
            )
            self.preview = gr.HTML(elem_id="preview")

    def _add_filters(self) -> None:
        subsets = [(label, key) for key, label in view.SUBSETS.items()]
        with gr.Row():
            self.forget_set = gr.Dropdown(
                [("all sets", ""), *self.review.texts.sets], value="", label="Set", elem_id="set"
            )
            self.words = gr.Textbox(label="Text contains", max_length=LONGEST, elem_id="words")
            self.subset = gr.Dropdown(subsets, value="all", label="Show", elem_id="subset")
            self.sort = gr.Dropdown(list(SORTS), value=BEST, label="Order", elem_id="sort", scale=2)

    def _add_table(self) -> None:
        self.table = view.texts_table("texts")
        with gr.Row():
            self.back = gr.Button("Previous", size="sm", elem_id="back")
            self.position = gr.HTML(elem_id="position")
            self.onward = gr.Button("Next", size="sm", elem_id="onward")
        self.page = gr.State(1)

    def _add_buttons(self, prefix: str, label: str) -> dict[str, gr.Button]:
        return view.decision_buttons(LABELS, prefix, label, self.can_decide)

    def connect(self, blocks: gr.Blocks) -> None:
        """Attach the handlers; `blocks` is the page that contains the tab."""
        self._on([blocks.load], self._on_load)
        # Not `input`, which a drop-down list also sends when it loses the focus.
        filters = (self.forget_set, self.words, self.subset, self.sort)
        self._on([control.change for control in filters], self._on_filter)
        self._on([self.back.click], partial(self._on_turn, -1))
        self._on([self.onward.click], partial(self._on_turn, 1))
        for act in LABELS:
            self._on([self.all_buttons[act].click], partial(self._on_decide_all, act))
            self._on([self.one_buttons[act].click], partial(self._on_decide_one, act))
        self._on([self.undo.click], self._on_undo)
        self._on([self.share.input], self._on_preview)
        self._on([self.apply.click, self.share.submit], self._on_apply)
        self._on([self.coloured.input], self._on_colour)
        outputs = [self.opened, self.text]
        gr.on([self.table.select], self._on_select, [self.coloured], outputs, **view.QUIET)

    def _on(
        self, triggers: Sequence[Callable[..., object]], handler: Callable[[Controls], Updates]
    ) -> None:
        """Call a handler with the controls' values, and show its errors in the status line."""
        inputs = Controls(
            percent=self.share,
            forget_set=self.forget_set,
            words=self.words,
            subset=self.subset,
            sort=self.sort,
            page=self.page,
            opened=self.opened,
            coloured=self.coloured,
        )
        outputs = [self.status, self.undo, self.picture, self.share, self.preview, self.table]
        outputs += [self.position, self.page, self.scope, self.text]

        def handle(*values: object) -> Updates:
            controls = Controls._make(values)
            try:
                return handler(controls)
            except InputError as error:  # gr.Error would not be shown without the queue
                return self._refresh(controls, str(error))

        gr.on(triggers, handle, list(inputs), outputs, trigger_mode="always_last", **view.QUIET)

    def _on_load(self, controls: Controls) -> Updates:
        # A read-only review does not see the other review's decisions otherwise.
        if self.review.read_only or self.review.is_stale():
            self.review.reload()
        return self._refresh(controls)

    def _on_filter(self, controls: Controls) -> Updates:
        return self._refresh(controls._replace(page=1))

    def _on_turn(self, step: int, controls: Controls) -> Updates:
        return self._refresh(controls._replace(page=controls.page + step))

    def _on_decide_all(self, act: str, controls: Controls) -> Updates:
        indices = view.find_texts(self.review, controls)
        description = view.describe(controls, len(indices))
        self.review.decide(act, indices, f"{LABELS[act]}: {description}")
        return self._refresh(controls)

    def _on_decide_one(self, act: str, controls: Controls) -> Updates:
        if controls.opened not in self.review.index_of:
            raise InputError("choose a text in the table first")
        index = self.review.index_of[controls.opened]
        self.review.decide(act, [index], f"{LABELS[act]}: {controls.opened}")
        return self._refresh(controls)

    def _on_undo(self, controls: Controls) -> Updates:
        self.review.undo()
        return self._refresh(controls)

    def _on_preview(self, controls: Controls) -> Updates:
        """Show what the share in the number box would change."""
        # Under the lock: otherwise a preview from before an action could be shown after it.
        with self.review.lock:
            share = controls.percent
            if share is None or not 0 < share <= 100 or share == view.percent(self.review):
                return {self.picture: html.histogram(self.review), self.preview: ""}
            return {
                self.picture: html.histogram(self.review, share / 100),
                self.preview: html.preview(*self.review.count_changes(share / 100)),
            }

    def _on_apply(self, controls: Controls) -> Updates:
        """Let the score select the share in the number box."""
        if controls.percent is None:
            raise InputError("enter a share above 0 and at most 100 per cent")
        # The box shows a rounded share; applying that without a change is no action. The page is
        # left alone then: this answer may come after a person has typed the next share.
        if controls.percent == view.percent(self.review):
            return {self.preview: gr.skip()}
        self.review.set_fraction(controls.percent / 100)
        return self._refresh(controls)

    def _on_colour(self, controls: Controls) -> Updates:
        return {self.text: view.text(self.review, controls.opened, controls.coloured)}

    def _on_select(self, event: gr.SelectData, coloured: bool) -> Updates:
        name = event.row_value[0]
        return {self.opened: name, self.text: view.text(self.review, name, coloured)}

    def _refresh(self, controls: Controls, error: str = "") -> Updates:
        """New values of all components, and the reason why a request failed."""
        review = self.review
        indices = view.find_texts(review, controls)
        on_page, number = take_page(indices, controls.page)
        undo = f"Undo: {shorten(clean(review.actions[-1].what), 40)}" if review.actions else "Undo"
        return {
            self.status: html.status(review, error),
            self.undo: gr.Button(undo, interactive=self.can_decide and bool(review.actions)),
            self.picture: html.histogram(review),
            self.share: view.percent(review),
            self.preview: "",
            self.table: view.table_rows(review, on_page),
            self.position: view.position(number, len(indices)),
            self.page: number,
            self.scope: f"<p>These: {html.escape(view.describe(controls, len(indices)))}</p>",
            self.text: view.text(review, controls.opened, controls.coloured),
        }
