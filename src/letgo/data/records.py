"""Reading data sets, and checking every record."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from letgo.errors import InputError, first_line

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class Record(NamedTuple):
    """One checked row of a data set; `where` is its file and line, for error messages."""

    id: str
    prompt: str
    completion: str | None
    where: str


def read_records(source: str, flag: str, completion: bool, texts: bool = False) -> list[Record]:
    """Read and check a data set.

    Args:
        source: a local JSONL, JSON, CSV or Parquet file, a folder of such files, an fsspec URL of
            such a file, or a hub id (`id`, `id:split` or `id:config:split`).
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
    records = [
        _check(row, number, where, flag, completion, texts)
        for number, (where, row) in enumerate(_rows(source, flag), start=1)
    ]
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
            fields = ", ".join(map(str, row)) or "nothing"
            raise InputError(f"{flag}: {where}: no {field!r} (found: {fields})")
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


def _rows(source: str, flag: str) -> Iterator[tuple[str, Any]]:
    """The rows of `source`, unchecked, each as (file and line, row)."""
    path = Path(source)
    if not source or len(source) > 1000:
        raise InputError(f"{flag}: {source[:40]!r} is not the name of a data set")
    if "://" in source:
        yield from _file_rows(source, flag)
    elif path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if not files:
            raise InputError(f"{flag}: no {', '.join(SUFFIXES)} file in the folder {source}")
        for file in files:
            yield from _file_rows(str(file), flag)
    elif path.exists():
        yield from _file_rows(source, flag)
    elif path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(f"{flag}: there is no file {source}")
    else:
        yield from _hub_rows(source, flag)


def _file_rows(file: str, flag: str) -> Iterator[tuple[str, Any]]:
    import fsspec

    suffix = PurePosixPath(file).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"{flag}: {file} is not one of {', '.join(SUFFIXES)}")
    try:
        with fsspec.open(file, "rb") as stream:
            if suffix == ".jsonl":
                yield from _json_lines(stream, file, flag)
            elif suffix == ".json":
                yield from _json_array(stream.read(), file, flag)
            else:
                for number, row in enumerate(_table(stream, suffix).to_pylist(), start=1):
                    yield f"{file} record {number}", row
    except InputError:
        raise
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"{flag}: cannot read {file}: {first_line(error)}") from error


def _json_lines(lines: Iterable[bytes], file: str, flag: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file} line {number}"
            yield where, _parse(line, where, flag)


def _json_array(text: bytes, file: str, flag: str) -> Iterator[tuple[str, Any]]:
    if not text.strip().startswith(b"["):  # some .json files hold JSON lines
        yield from _json_lines(text.splitlines(), file, flag)
        return
    for number, row in enumerate(_parse(text, file, flag), start=1):
        yield f"{file} record {number}", row


def _parse(text: bytes, where: str, flag: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{flag}: {where} is not JSON: {first_line(error)}") from error


def _table(stream: Any, suffix: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if suffix == ".parquet":
        return pa.parquet.read_table(stream)
    # Without types, "007" would be read as a number and "true" as a boolean.
    as_strings = {"prompt": pa.string(), "completion": pa.string()}
    return pa.csv.read_csv(
        stream,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=as_strings),
    )


def _hub_rows(source: str, flag: str) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    name, *rest = source.split(":")
    config = rest[0] if len(rest) == 2 else None
    split = rest[-1] if rest else "train"
    try:
        dataset = load_dataset(name, config, split=split)
    except Exception as error:  # the hub's client has no common base class of its errors
        raise InputError(
            f"{flag}: {source} is neither a local file nor a data set that can be loaded from the "
            f"hub: {first_line(error)}"
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield f"{source} record {number}", row


def text_fingerprint(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(records: Iterable[Record]) -> str:
    """A digest of the records' prompts and completions, independent of file names and ids."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.prompt, record.completion]).encode())
    return digest.hexdigest()[:16]
