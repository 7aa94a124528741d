"""Files that appear whole or not at all."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it becomes `path` when the block ends without an error."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def write_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as JSON lines; makes the folder if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
