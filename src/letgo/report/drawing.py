"""The style of all figures, and their output as inline SVG and as files."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from letgo.data.files import atomic_write

# Lines and letters have a colour that nothing else has: `inline` replaces it by "currentColor", so
# that they follow the page's light or dark theme.
INK = "#010101"
# Distinguishable for the colour-blind, and in contrast to both white and near-black.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8609b", "#94730b", "#777777")
MARKERS = "o^sDvP"
_INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
_STYLE = {
    **dict.fromkeys((*_INKED, "legend.labelcolor"), INK),
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
WIDTH = 4.5  # inches
# No dates, so that equal runs give equal files.
_METADATA: dict[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": {"CreationDate": None},
    "png": {},
}
FORMATS = tuple(_METADATA)
_SVG = "{http://www.w3.org/2000/svg}"

# Artists of a figure with the texts to show under the mouse: one per marker, or one for the whole.
HoverTexts = list[tuple[Artist, list[str]]]


class Drawing(NamedTuple):
    """A figure, its description for readers who cannot see it, and its texts under the mouse."""

    figure: Figure
    description: str
    hover: HoverTexts


@contextmanager
def _style(**changes: str) -> Iterator[None]:
    with matplotlib.rc_context({**_STYLE, **changes}), warnings.catch_warnings():
        # In the page, the browser draws letters that matplotlib has no glyph for.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@contextmanager
def new_figure(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """An empty figure, `height` inches high and `width` wide, to be drawn in the block."""
    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # One layout for all files, however often the figure is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def inline(name: str, drawing: Drawing) -> Markup:
    """A drawing as an SVG element of the page, with `<title>` elements for its hover texts.

    `name` is unique among the figures of the page; the element has the id "figure-NAME".
    """
    hover: dict[str, list[str]] = {}
    for artist, texts in drawing.hover:
        artist.set_gid(f"hover-{len(hover)}")
        hover[f"hover-{len(hover)}"] = texts
    buffer = io.BytesIO()
    with _style(**{"svg.fonttype": "none"}):  # letters stay letters
        drawing.figure.savefig(
            buffer, format="svg", transparent=True, dpi=200, metadata=_METADATA["svg"]
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for group in list(root.iter(f"{_SVG}g")):
        texts = hover.get(group.get("id", ""), [])
        marks = list(group.iter(f"{_SVG}use")) or [group]
        if len(marks) == len(texts):  # not so for a bitmap
            for mark, text in zip(marks, texts, strict=True):
                ElementTree.SubElement(mark, "title").text = text
    for element in root.iter():
        # In HTML, SVG needs no namespace; all figures share the page's ids.
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            value = re.sub(r"url\(#", rf"\g<0>{name}-", value).replace(INK, "currentColor")
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            element.set(key, value)
    root.attrib |= {"id": f"figure-{name}", "role": "img", "aria-label": drawing.description}
    return Markup(ElementTree.tostring(root, "unicode"))


def save(drawing: Drawing, file: Path) -> None:
    """Write a drawing in the format of the file's suffix, one of `FORMATS`."""
    suffix = file.suffix.removeprefix(".")
    with _style(), atomic_write(file) as part:
        drawing.figure.savefig(part, format=suffix, dpi=300, metadata=_METADATA[suffix])
