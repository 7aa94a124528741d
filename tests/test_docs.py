"""The documentation against the code: flags, defaults and links."""

import dataclasses
import re
from pathlib import Path

import pytest
from trl import ModelConfig

from letgo import LWFConfig
from letgo.run.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "studies" / "README.md"]
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
# Rows of the tables, "| `--flag` | default | meaning |"; a star marks a field of LWFConfig.
ROWS = re.findall(r"^\| `--(\w+)`( \*)? \| (\S+) \|", SETTINGS, re.MULTILINE)


def defaults(part):
    return {f.name: f.default for f in dataclasses.fields(part)}


OWN = set(vars(LWFConfig)["__annotations__"])


def test_settings_lists_every_flag_of_letgo_once():
    flags = [flag for flag, _, _ in ROWS]
    assert len(flags) == len(set(flags))
    assert {*defaults(RunConfig), *OWN} <= {*flags}
    assert {flag for flag, star, _ in ROWS if star} == OWN


# Flags that are no settings of a run.
COMMANDS = {"config", "explain", "harness", "figures", "lora_", "difference", "columns", "json"}
COMMANDS |= {"clean", "top", "limit", "num_fewshot", "apply_chat_template", "fewshot_as_multiturn"}
COMMANDS |= {"models", "prompt", "to", "dtype", "private", "yes"}  # of chat, merge and push


def test_settings_has_no_unknown_flag_and_the_right_defaults():
    known = {**defaults(ModelConfig), **defaults(LWFConfig), **defaults(RunConfig)}
    for flag, _, default in ROWS:
        expected = known[flag]
        if expected is None or expected is dataclasses.MISSING:
            assert default == "-", flag
        else:
            assert default.lower() == str(expected).lower(), flag
    mentioned = set(re.findall(r"`--(\w+)", SETTINGS))
    assert mentioned <= {*known, *COMMANDS}


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not re.match(r"https?://", link):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
