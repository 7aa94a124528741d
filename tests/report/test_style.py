"""Accessibility of the page, in light and dark themes."""

import re
from itertools import pairwise
from pathlib import Path

from helpers.report_runs import Page, make_run

from letgo import report
from letgo.report.drawing import COLOURS
from letgo.report.page import render


def test_page_is_accessible(tmp_path):
    html = render(make_run(tmp_path / "run"))
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == tags.count("svg") == 8
    assert all(len(picture["aria-label"]) > 20 for picture in pictures)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)"]*)\)', html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {one or other for one, other in references} <= set(ids)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert [i for i, level in enumerate(levels) if level == 1] == [0]
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_contrast_of_letters_and_colours_in_every_theme():
    css = (Path(report.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root {.*?}", css, re.S)
    light, dark, printed = (dict(re.findall(r"--(\w+): #(\w+)", block)) for block in blocks)
    assert "@media (prefers-color-scheme: dark)" in css
    assert set(light) == set(dark) == set(printed)
    for theme in (light, dark, printed):
        for name in ("ink", "quiet", "right", "wrong"):
            assert contrast(theme[name], theme["paper"]) >= 4.5
            assert contrast(theme[name], theme["card"]) >= 4.5
        for colour in COLOURS:
            assert contrast(colour[1:], theme["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG defines it."""
    shades = []
    for colour in (one, other):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        )
        shades.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(shades) / min(shades)
