"""How pictures are drawn: their style, and the way from a figure to SVG inside the page."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Lines and letters are drawn in a colour nothing else has, which `draw` then gives over to the
# page, so that they follow its light or dark theme.
INK = "#010101"
# Tones that differ for the colour-blind and stand out from both white and near-black.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8609b", "#94730b", "#777777")
MARKERS = "o^sDvP"
_STYLE: Any = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "font.size": 9, "axes.titlesize": 9, "lines.linewidth": 1.4,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "letgo",
}  # fmt: skip
_WIDTH = 4.5


class Picture(NamedTuple):
    """An inline SVG, and the words that say what it shows to who cannot see it."""

    svg: Markup
    description: str


@contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """Give an empty figure, `height` inches high, that is to be filled and drawn in this block."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A letter matplotlib has no glyph for is still text in the SVG, and the browser's to draw.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def draw(figure: Figure, name: str, description: str) -> Picture:
    """Return the figure as a picture.

    Args:
        figure: from `new_figure`, filled.
        name: distinct among the pictures of a page.
        description: what the picture shows.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", transparent=True, dpi=200, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Pictures share the page's one space of names.
    svg = Markup(re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text))
    return Picture(svg, description)
