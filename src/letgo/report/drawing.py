"""How pictures are drawn: their style, and the way from a figure into the page or to a file."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# Lines and letters are drawn in a colour nothing else has, which `inline` then gives over to the
# page, so that they follow its light or dark theme.
INK = "#010101"
# Tones that differ for the colour-blind and stand out from both white and near-black.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8609b", "#94730b", "#777777")
MARKERS = "o^sDvP"
_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "lines.linewidth": 1.4,
    "text.parse_math": False,
    "svg.hashsalt": "letgo",
    "pdf.fonttype": 42,
}
_WIDTH = 4.5
# Equal runs give equal files: no date is in them.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": {"CreationDate": None},
    "png": {},
}
FORMATS = tuple(_METADATA)


class Drawing(NamedTuple):
    """A figure, and the words that say what it shows to who cannot see it."""

    figure: Figure
    description: str


class Picture(NamedTuple):
    """The same as an inline SVG."""

    svg: Markup
    description: str


@contextmanager
def _style(**changes: Any) -> Iterator[None]:
    with matplotlib.rc_context({**_STYLE, **changes}), warnings.catch_warnings():
        # A letter matplotlib has no glyph for is still text in the page, and the browser's to draw.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """Give an empty figure, `height` inches high, that is to be filled in this block."""
    with _style():
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure
        # Laid out once: every file of it comes out the same, however often it is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def inline(name: str, drawing: Drawing) -> Picture:
    """Return a drawing as an element of the page.

    Args:
        name: distinct among the pictures of a page.
        drawing: its figure comes from `new_figure`.
    """
    buffer = io.StringIO()
    with _style(**{"svg.fonttype": "none"}):  # letters stay letters
        drawing.figure.savefig(
            buffer, format="svg", transparent=True, dpi=200, metadata=_METADATA["svg"]
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Pictures share the page's one space of names.
    svg = Markup(re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text))
    return Picture(svg, drawing.description)


def save(drawing: Drawing, file: Path) -> None:
    """Write a drawing, in the format that the file's name ends with: one of `FORMATS`."""
    kind = file.suffix.removeprefix(".")
    part = file.with_name(file.name + ".part")
    with _style():
        drawing.figure.savefig(part, format=kind, dpi=300, metadata=_METADATA[kind])
    part.replace(file)
