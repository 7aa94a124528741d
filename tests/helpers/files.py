"""Files of records."""

import json
from pathlib import Path


def write_lines(file: Path, records: list[dict]) -> Path:
    """A JSONL file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file
