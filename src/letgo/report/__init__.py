"""What a run did, told on a page (`render`) and in files for papers (`save_figures`)."""

from letgo.report.drawing import FORMATS
from letgo.report.figures import save_figures
from letgo.report.page import render

__all__ = ["FORMATS", "render", "save_figures"]
