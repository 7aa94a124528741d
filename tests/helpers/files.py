"""Files of records."""

import json
from pathlib import Path


def write_lines(file: Path, records: list[dict]) -> Path:
    """A JSONL file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def without_digests(folder: Path) -> None:
    """Make a run folder as an earlier letgo left it: its outputs may be changed unnoticed."""
    file = folder / "stages.json"
    stages = json.loads(file.read_text())
    for record in stages.values():
        record.pop("outputs", None)
    file.write_text(json.dumps(stages))
