"""The page in a browser: figures, sorting, filters, themes, and no loading."""

from pathlib import Path

import pytest
from helpers.report_runs import make_run

from letgo.report.page import render

sync_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
HOSTILE = "<b>x</b><img src=x onerror=window.hit=1><script>window.hit=1</script>"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("report") / "run", (HOSTILE, "law"), 12, text=HOSTILE)
    (folder / "report.html").write_text(render(folder), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
def visit(browser, file):
    """A function that opens the page; console messages, errors and loading fail the test."""
    contexts, messages, requests = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert set(requests) == {file.as_uri()}


def test_hover_text_of_the_point_under_the_mouse(visit):
    page = visit()
    assert page.locator("svg[role=img]:visible").count() == 8
    point = page.locator("#figure-confidence-tokens use:has(title)").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    text = page.evaluate("([x, y]) => document.elementFromPoint(x, y).textContent", middle)
    assert text.startswith("<b>x</b><img src=x oner…: confidence ")
    assert "<script>window.hit=1</script>" in text
    assert page.locator("svg :is(b, img, script)").count() == 0
    assert page.evaluate("window.hit") is None


def test_the_policy_blocks_any_other_script(browser, file):
    page = browser.new_page()
    page.goto(file.as_uri())
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.hit = 1";
            document.head.append(script);
        }""")
    assert page.evaluate("window.hit") is None
    page.close()


def test_figures_follow_the_theme(visit):
    page = visit(color_scheme="light")
    ink = "getComputedStyle(document.querySelector('#figure-training text')).fill"
    assert page.evaluate(ink) == "rgb(28, 33, 38)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ink) == "rgb(228, 232, 236)"
    page.emulate_media(media="print")
    assert page.evaluate(ink) == "rgb(0, 0, 0)"
    assert page.locator("svg[role=img]:visible").count() == 8
    assert page.locator("form:visible").count() == 0


def test_sorting_and_filtering_by_keyboard(visit):
    page = visit()
    page.locator("summary", has_text="texts in a table").press("Enter")
    rows = page.locator("#texts tr:visible")
    assert rows.count() == 24
    tokens = page.get_by_role("button", name="tokens")
    tokens.press("Enter")
    first = [int(text) for text in page.locator("#texts td:nth-child(4)").all_text_contents()]
    assert first == sorted(first)
    tokens.press("Enter")
    assert page.locator("th[aria-sort=descending]").text_content() == "tokens"
    form = page.locator("form[data-list=texts]")
    form.get_by_label("set").select_option("law")
    assert rows.count() == 12
    form.get_by_label("words").fill("LAW?")
    assert form.locator("output").text_content() == "12 of 24 shown"
    form.get_by_label("words").fill("nowhere")
    assert rows.count() == 0
    answers = page.locator("form[data-list=answers]")
    answers.get_by_label("outcome").select_option("gained")
    assert page.locator("#answers article:visible h4", has_text="gained").count() > 0
    assert page.locator("#answers article:visible h4", has_text="both right").count() == 0


@pytest.mark.parametrize("width", [320, 390])
def test_no_sideways_scrolling_on_a_phone(visit, width):
    page = visit(viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_are_visible_without_javascript(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("svg[role=img]:visible").count() == 8
    assert page.locator("form:visible").count() == 0
