"""The page of the review as a gradio app."""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

# Before gradio is imported: no telemetry.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from letgo.report.formats import clean
from letgo.review.audit_tab import AuditTab
from letgo.review.comparison import comparison_tab
from letgo.review.session import Review
from letgo.review.texts_tab import TextsTab

# System fonts: gradio's default theme would load its fonts from the network.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def mount(server: FastAPI, review: Review, others: Sequence[Path]) -> FastAPI:
    """Serve the page at the root of a FastAPI app; `others` are runs to compare with."""
    return gr.mount_gradio_app(
        server,
        build(review, others),
        path="/",
        theme=gr.themes.Default(**FONTS),
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        css=resources.files("letgo.review").joinpath("review.css").read_text(),
        footer_links=[],
    )


def build(review: Review, others: Sequence[Path]) -> gr.Blocks:
    """The page, with arguments as in `mount`."""
    name = clean(review.folder.resolve().name)
    with gr.Blocks(title=f"letgo review {name}", analytics_enabled=False) as page:
        with gr.Row(elem_id="head"):
            status = gr.HTML()
            undo = gr.Button("Undo", size="sm", scale=0, min_width=280, elem_id="undo")
        if review.ids:
            with gr.Tab("Texts"):
                TextsTab(review, status, undo).connect(page)
        if review.audit is not None:
            with gr.Tab("Learning data"):
                AuditTab(review, status, undo).connect(page)
        if review.ids:
            with gr.Tab("Compare"):
                comparison_tab(page, review, others)
    return page
