"""The tab that lists the learning examples of an audit and takes decisions on them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import gradio as gr
import numpy as np

from letgo.errors import InputError
from letgo.report.formats import clean, shorten, significant
from letgo.review import html, view
from letgo.review.query import LONGEST, contains, page_count, take_page
from letgo.review.session import Review
from letgo.review.texts import in_a_line
from letgo.run.audit import KEEP, UNLEARN
from letgo.run.decisions import BY_SCORE, DROP, EXCLUDE, INCLUDE

HEADERS = ["id", "loss_ref", "- loss_base", "gradient", "treatment", "example"]
LABELS = {DROP: "Drop", INCLUDE: "Unlearn", EXCLUDE: "Keep", BY_SCORE: "Leave to the audit"}
SUBSETS = {
    "all": "all examples",
    "suspected": "suspected",
    KEEP: "kept",
    UNLEARN: "unlearned",
    DROP: "dropped",
    "person": "decided by a person",
}

Updates = dict[gr.Component, object]  # new values of components


class Controls(NamedTuple):
    """Values of the tab's controls.

    Attributes:
        words: what prompt or answer must contain.
        subset: a key of `SUBSETS`.
        page: number of the page, from 1.
        opened: id of the example that was clicked; empty for none.
    """

    words: str = ""
    subset: str = "all"
    page: int = 1
    opened: str = ""


def find_examples(review: Review, controls: Controls) -> np.ndarray:
    """Indices of the listed examples, those most at odds with the clean ones first."""
    audit = review.audit
    assert audit is not None
    if controls.subset == "all":
        mask = np.ones(len(audit), bool)
    elif controls.subset == "suspected":
        mask = np.array(audit["suspected"])
    elif controls.subset == "person":
        mask = np.array([name in review.decided.texts for name in review.audit_ids], bool)
    else:
        mask = review.treatments == controls.subset
    if words := controls.words.strip():
        mask &= contains(audit, words)
    return np.flatnonzero(mask)


def table_rows(review: Review, indices: np.ndarray) -> list[list[str]]:
    """Examples as rows of the table, in the order of `HEADERS`."""
    assert review.audit is not None
    return [
        [
            clean(row["id"]),
            *(significant(row[name], 4) for name in ("loss_ref", "interference", "gradient")),
            str(review.treatments[index]) + ("*" if row["id"] in review.decided.texts else ""),
            in_a_line(row, 200),
        ]
        for index, row in zip(indices, review.audit.take(indices).to_pylist(), strict=True)
    ]


class AuditTab:
    """Components of the tab, and the handlers of their events."""

    def __init__(self, review: Review, status: gr.HTML, undo: gr.Button):
        self.review, self.status, self.undo = review, status, undo
        self.can_decide = not review.read_only
        subsets = [(label, key) for key, label in SUBSETS.items()]
        with gr.Row():
            self.words = gr.Textbox(
                label="Example contains", max_length=LONGEST, elem_id="audit-words"
            )
            self.subset = gr.Dropdown(subsets, value="all", label="Show", elem_id="audit-subset")
        self.table = gr.Dataframe(
            headers=HEADERS,
            datatype="str",
            interactive=False,
            type="array",
            elem_id="audit",
            buttons=[],
            max_height=1000,
        )
        with gr.Row():
            self.back = gr.Button("Previous", size="sm", elem_id="audit-back")
            self.position = gr.HTML(elem_id="audit-position")
            self.onward = gr.Button("Next", size="sm", elem_id="audit-onward")
        self.example = gr.HTML(elem_id="audit-example")
        self.one_buttons = self._add_buttons("audit-one", "{}")
        self.all_buttons = self._add_buttons("audit-all", "{}: all of these")
        self.page, self.opened = gr.State(1), gr.State("")

    def _add_buttons(self, prefix: str, label: str) -> dict[str, gr.Button]:
        return view.decision_buttons(LABELS, prefix, label, self.can_decide)

    def connect(self, blocks: gr.Blocks) -> None:
        """Attach the handlers; `blocks` is the page that contains the tab."""
        self._on([blocks.load, self.words.change, self.subset.change], self._on_filter)
        self._on([self.back.click], partial(self._on_turn, -1))
        self._on([self.onward.click], partial(self._on_turn, 1))
        for act in LABELS:
            self._on([self.one_buttons[act].click], partial(self._on_decide_one, act))
            self._on([self.all_buttons[act].click], partial(self._on_decide_all, act))
        if not self.review.ids:  # else the tab with the texts undoes
            self._on([self.undo.click], self._on_undo)
        # An action of the other tab, or the button that undoes one, changes the status line.
        listed = [self.table, self.position, self.page, self.example]
        inputs = [self.words, self.subset, self.page, self.opened]

        def relist(*values: object) -> Updates:
            return self._list(Controls._make(values))

        gr.on([self.status.change], relist, inputs, listed, **view.QUIET)
        opened = [self.opened, self.example]
        gr.on([self.table.select], self._on_select, None, opened, **view.QUIET)

    def _on(
        self, triggers: Sequence[Callable[..., object]], handler: Callable[[Controls], Controls]
    ) -> None:
        """Call a handler with the controls' values, and show its errors in the status line."""
        inputs = [self.words, self.subset, self.page, self.opened]
        outputs = [self.status, self.undo, self.table, self.position, self.page, self.example]

        def handle(*values: object) -> Updates:
            controls, error = Controls._make(values), ""
            try:
                controls = handler(controls)
            except InputError as problem:
                error = str(problem)
            actions = self.review.actions
            undo = f"Undo: {shorten(clean(actions[-1].what), 40)}" if actions else "Undo"
            return {
                self.status: html.status(self.review, error),
                self.undo: gr.Button(undo, interactive=self.can_decide and bool(actions)),
                **self._list(controls),
            }

        gr.on(triggers, handle, inputs, outputs, trigger_mode="always_last", **view.QUIET)

    def _on_filter(self, controls: Controls) -> Controls:
        return controls._replace(page=1)

    def _on_turn(self, step: int, controls: Controls) -> Controls:
        return controls._replace(page=controls.page + step)

    def _on_decide_one(self, act: str, controls: Controls) -> Controls:
        if controls.opened not in self.review.audit_ids:
            raise InputError("choose an example in the table first")
        index = self.review.audit_ids.index(controls.opened)
        self.review.decide_learning(act, [index], f"{LABELS[act]}: {controls.opened}")
        return controls

    def _on_decide_all(self, act: str, controls: Controls) -> Controls:
        indices = find_examples(self.review, controls)
        what = f"{LABELS[act]}: {len(indices):,} examples, {SUBSETS[controls.subset]}"
        self.review.decide_learning(act, indices, what)
        return controls

    def _on_undo(self, controls: Controls) -> Controls:
        self.review.undo()
        return controls

    def _on_select(self, event: gr.SelectData) -> Updates:
        name = event.row_value[0]
        return {self.opened: name, self.example: self._example(name)}

    def _list(self, controls: Controls) -> Updates:
        indices = find_examples(self.review, controls)
        on_page, number = take_page(indices, controls.page)
        position = f"page {number:,} of {page_count(len(indices)):,} ({len(indices):,} examples)"
        return {
            self.table: table_rows(self.review, on_page),
            self.position: position,
            self.page: number,
            self.example: self._example(controls.opened),
        }

    def _example(self, name: str) -> str:
        """A whole example as HTML."""
        if self.review.audit is None or name not in self.review.audit_ids:
            return '<p class="label">Choose an example in the table to read it.</p>'
        index = self.review.audit_ids.index(name)
        row = self.review.audit.slice(index, 1).to_pylist()[0]
        facts = f"{html.escape(name)} · {self.review.treatments[index]}"
        return (
            f'<div class="opened"><p class="facts"><b>{facts}</b></p><p class="label">prompt</p>'
            f'<p class="passage" dir="auto">{html.escape(row["prompt"])}</p><p class="label">'
            f'answer</p><p class="passage" dir="auto">{html.escape(row["completion"])}</p></div>'
        )
