"""Stage 5: one page with pictures."""

from pathlib import Path

from letgo.report.page import render
from letgo.run.inputs import Run


def report(run: Run, scratch: Path) -> None:
    """Write `report.html` from the files of the run folder."""
    (scratch / "report.html").write_text(render(run.folder), encoding="utf-8")
