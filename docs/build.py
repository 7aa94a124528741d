"""Build the docs site: `make docs` writes it to `build/site`, and fails on a broken link.

The pages are README, CONTRIBUTING, CHANGELOG, docs/*.md and studies/README.md as they stand, and
two that are made from the code: the help of every command, and the Python API.
"""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "docs"
OTHERS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "studies/README.md": "studies.md",
}
API = {
    "letgo": "The trainer and its settings",
    "letgo.scoring.scores": "Forgetting scores",
    "letgo.scoring.products": "Products of per-example gradients",
    "letgo.unlearning.losses": "Unlearning losses",
    "letgo.evaluation.statistics": "Paired statistics",
    "letgo.run.folder": "The files of a run",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
MODULE = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)")  # before the name of a type
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")


def main() -> None:
    """Write the pages to `build/docs` and the site to `build/site`."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "pictures", PAGES / "pictures")
    sources = {ROOT / name: page for name, page in OTHERS.items()}
    sources |= {path: path.name for path in (ROOT / "docs").glob("*.md")}
    for source, page in sources.items():
        text = source.read_text(encoding="utf-8")
        (PAGES / page).write_text(with_links_of_site(text, source, sources), encoding="utf-8")
    (PAGES / "cli.md").write_text(command_line(), encoding="utf-8")
    (PAGES / "api.md").write_text("\n".join(api()), encoding="utf-8")
    subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"], cwd=ROOT, check=True
    )


def with_links_of_site(text: str, source: Path, pages: dict[Path, str]) -> str:
    """The text of a page; a link to a file that is no page becomes the file's path as code."""

    def link(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target:
            return found[0]
        file = (source.parent / path).resolve()
        if file in pages:
            return f"{mark}[{label}]({pages[file]}{anchor and '#' + anchor})"
        if (ROOT / "docs" / "pictures") in file.parents:
            return f"{mark}[{label}](pictures/{file.name})"
        name = str(file.relative_to(ROOT))
        return f"`{name}`" if label.strip("`") in name else f"{label} (`{name}`)"

    return LINK.sub(link, text)


def command_line() -> str:
    """The page of the command line: what `--help` prints."""
    from letgo import cli

    pages = ["# Command line", help_of()]
    pages.append("The commands of the stages take the flags of `letgo run`.")
    commands = [command for command in cli.COMMANDS if command not in cli.STAGES]
    pages += [f"## letgo {command}\n\n{help_of(command)}" for command in commands]
    return "\n\n".join(pages) + "\n"


def help_of(*command: str) -> str:
    """The help of a command, in a block of code."""
    words = [sys.executable, "-m", "letgo", *command, "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return f"```text\n{done.stdout.rstrip()}\n```"


def api() -> Iterator[str]:
    """The lines of the page of the Python API."""
    yield "# Python API\n"
    for name, title in API.items():
        module = importlib.import_module(name)
        yield f"## {title}\n\nIn `{name}`.\n\n{section_lists(inspect.getdoc(module) or '')}\n"
        for key in getattr(module, "__all__", vars(module)):
            value = getattr(module, key)
            own = name == "letgo" or getattr(value, "__module__", None) == name
            if own and not key.startswith("_") and (inspect.isclass(value) or callable(value)):
                yield entry(key, value)


def entry(name: str, value: Any) -> str:
    """A class or function: its signature and its docstring."""
    signature = MODULE.sub("", str(inspect.signature(value)))
    if len(signature) > 500:  # LWFConfig: settings.md lists its fields
        signature = "(...)"
    text = section_lists(inspect.getdoc(value) or "")
    return f"### {name}\n\n```python\n{name}{signature}\n```\n\n{text}\n"


def section_lists(docstring: str) -> str:
    """A Google-style docstring in Markdown: its sections become lists."""
    lines, inside = [], False
    for line in docstring.splitlines():
        if found := SECTION.match(line):
            lines += [f"**{found[1]}**", ""]
            inside = True
        elif inside and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
