"""Reading data sets, and checking every record."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from letgo.data import sources
from letgo.errors import InputError, printable


class Record(NamedTuple):
    """One checked row of a data set; `where` is its file and line, for error messages."""

    id: str
    prompt: str
    completion: str | None
    where: str


def read_records(source: str, flag: str, completion: bool, texts: bool = False) -> list[Record]:
    """Read and check a data set.

    Args:
        source: a local JSONL, JSON, CSV or Parquet file, a folder of such files (of splits that of
            the training split), a folder of `Dataset.save_to_disk`, an fsspec URL of such a file,
            or a hub id (`id`, `id:split` or `id:config:split`).
        flag: the flag that `source` came from, for error messages.
        completion: whether every record must have a completion.
        texts: whether a record may also be `{"text": str}`; it has no prompt, the text is its
            completion.

    Returns:
        the records, in the order of the file.

    Raises:
        InputError: the source is missing or empty, or a record is not
            `{"prompt": str, "completion": str}`; the message names the flag, the file and the line.
    """
    try:
        records = [
            _check(row, number, where, flag, completion, texts)
            for number, (where, row) in enumerate(sources.rows(source, flag), start=1)
        ]
    except InputError as error:  # it may quote what the data say
        raise InputError(printable(str(error)).replace("\n", "\\n")) from error
    if not records:
        raise InputError(f"{flag}: {source} is empty; give a file with at least one record")
    return records


def _check(row: Any, number: int, where: str, flag: str, completion: bool, texts: bool) -> Record:
    if not isinstance(row, dict):
        expected = '{"prompt": ..., "completion": ...}'
        raise InputError(f"{flag}: {where}: not a record; expected {expected}")
    if texts and "prompt" not in row and isinstance(row.get("text"), str) and row["text"].strip():
        return Record(f"{number:06d}", "", row["text"], where)
    for field in ("prompt", "completion"):
        value = row.get(field)
        if value is None and (field == "prompt" or completion):
            found = "null" if field in row else ", ".join(map(str, row))[:200] or "nothing"
            raise InputError(f"{flag}: {where}: no {field!r} (found: {found})")
        if value is not None and not isinstance(value, str):
            actual = type(value).__name__
            raise InputError(f"{flag}: {where}: {field!r} is not a string but {actual}")
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{flag}: {where}: {field!r} is not valid text") from error
    if not row["prompt"].strip():
        raise InputError(f"{flag}: {where}: the prompt is empty")
    if completion and not row["completion"].strip():
        raise InputError(f"{flag}: {where}: the completion is empty")
    return Record(f"{number:06d}", row["prompt"], row.get("completion"), where)


def text_fingerprint(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(records: Iterable[Record]) -> str:
    """A digest of the records' prompts and completions, independent of file names and ids."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.prompt, record.completion]).encode())
    return digest.hexdigest()[:16]
