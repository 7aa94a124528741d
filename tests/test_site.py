"""What docs/build.py makes of the pages."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

PAGES = {ROOT / "README.md": "index.md", ROOT / "docs" / "data.md": "data.md"}


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("README.md", "[a](docs/data.md#a-rule)", "[a](data.md#a-rule)"),
        ("docs/method.md", "[home](../README.md)", "[home](index.md)"),
        ("docs/method.md", "[here](#loss) [x](https://a.b/c)", "[here](#loss) [x](https://a.b/c)"),
        (
            "docs/method.md",
            "[the rule](../src/letgo/errors.py)",
            "the rule (`src/letgo/errors.py`)",
        ),
        ("docs/method.md", "[errors.py](../src/letgo/errors.py)", "`src/letgo/errors.py`"),
        ("README.md", "![report](docs/pictures/r.png)", "![report](pictures/r.png)"),
    ],
)
def test_links_lead_to_pages_of_the_site(page, text, expected):
    assert build.with_links_of_site(text, ROOT / page, PAGES) == expected


def test_sections_of_a_docstring_become_lists():
    text = "Add.\n\nArgs:\n    a: one\n        number.\n\nReturns:\n    the sum.\n\nMore."
    assert build.section_lists(text) == (
        "Add.\n\n**Args**\n\n- a: one\n        number.\n\n**Returns**\n\n- the sum.\n\nMore."
    )


def test_every_page_is_in_the_navigation():
    pages = {*build.OTHERS.values(), "cli.md", "api.md"}
    pages |= {path.name for path in (ROOT / "docs").glob("*.md")}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page for page in sorted(pages) if f": {page}\n" not in navigation]
