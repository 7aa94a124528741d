"""The page that tells what a run did: `render(folder)` gives its whole text."""

from letgo.report.page import render

__all__ = ["render"]
