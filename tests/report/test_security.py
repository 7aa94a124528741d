"""Hostile texts of a run, and what a browser may load and run."""

import base64
import hashlib
import re

from helpers.report_runs import Page, make_run

from letgo.report.page import render


def test_hostile_text_is_only_text(tmp_path):
    name = "</svg><script>$x$ &\u202e\x07"
    html = render(make_run(tmp_path / "run", sets=(name, "_law"), count=4))
    page = Page(html)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert "<script>alert(1)</script> \ufffdtxt.exe\ufffd" in page.text
    assert "{{ 7*7 }} &amp; '\"" in page.text
    examples = page.text[page.text.index("Let go: examples") : page.text.index("Headroom")]
    for model in ("base", "sft", "lwf"):
        assert f"{model} says 2 <script>alert(1)</script> \ufffdtxt.exe\ufffd" in examples
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    html.encode("utf-8")


def test_page_loads_nothing(tmp_path):
    html = render(make_run(tmp_path / "run"))
    page = Page(html)
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("type") != "module"


def test_a_browser_may_run_the_script_of_the_page_and_nothing_else(tmp_path):
    page = Page(render(make_run(tmp_path / "run")))
    policy = next(
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and "http-equiv" in attributes
    )
    digest = hashlib.sha256(page.script.encode()).digest()
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": f"'sha256-{base64.b64encode(digest).decode()}'",
    }
