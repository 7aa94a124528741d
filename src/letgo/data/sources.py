"""The rows of a data source, unchecked: a file, a folder, a saved data set, or one of the hub."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from letgo.errors import InputError, first_line
from letgo.progress import log

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# The fields that are used; others are not even read where a format allows it.
FIELDS = ("prompt", "completion", "text")
# A small Parquet file can hold more rows than memory.
MOST_ROWS = 10_000_000
MOST_BYTES_OF_CELL = 1 << 28
# Words in file names that name a split of a data set.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "heldout"), "test"),
}

Rows = Iterator[tuple[str, Any]]  # each as (file and line, row)


def rows(source: str, flag: str) -> Rows:
    """The rows of `source`; for the arguments and the errors see `records.read_records`."""
    if not source or len(source) > 1000 or "\0" in source:
        raise InputError(f"{flag}: {source[:40]!r} is not the name of a data set")
    path = Path(source)
    if "://" in source:
        yield from _file_rows(source, flag)
        return
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"{flag}: cannot read {source}: {_reason(error)}") from error
    if is_folder:
        yield from _folder_rows(path, flag)
    elif exists:
        yield from _file_rows(source, flag)
    elif path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(f"{flag}: there is no file {source}")
    else:
        yield from _hub_rows(source, flag)


def _folder_rows(folder: Path, flag: str) -> Rows:
    """The rows of a folder's files, or of its training split if it has splits."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise InputError(f"{flag}: cannot read {folder}: {_reason(error)}") from error
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        yield from _saved_rows(folder, flag)
        return
    # Hidden files, and those that programs keep while a file is open, are no data.
    files = [n for n in names if n.endswith(SUFFIXES) and not n.startswith((".", "~"))]
    if not files:
        raise InputError(f"{flag}: no {', '.join(SUFFIXES)} file in the folder {folder}")
    splits = {name: _split(name) for name in files}
    for name in _training_part(splits, folder, flag):
        yield from _file_rows(str(folder / name), flag)


def _split(file: str) -> str:
    """The split that a file's name names, or nothing."""
    words = re.split(r"(?:set|data|split)?(?:[\W\d_]+|$)", PurePosixPath(file).stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _training_part(splits: dict[str, str], folder: Path, flag: str) -> list[str]:
    """Those of the names whose split is "train", or all if there are no different splits.

    Raises:
        InputError: there are different splits, but none to train on.
    """
    if len(set(splits.values())) == 1:
        return list(splits)
    training = [name for name, split in splits.items() if split == "train"]
    if not training:
        raise InputError(
            f"{flag}: the folder {folder} has splits, but none is named train: "
            f"{', '.join(splits)}; name the one to read"
        )
    others = [name for name in splits if name not in training]
    message = "%s: of the folder %s only %s is read, and not %s"
    log.warning(message, flag, folder, ", ".join(training), ", ".join(others))
    return training


def _file_rows(file: str, flag: str) -> Rows:
    import fsspec

    suffix = PurePosixPath(file).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"{flag}: {file} is not one of {', '.join(SUFFIXES)}")
    try:
        with fsspec.open(file, "rb") as stream:
            if suffix == ".jsonl":
                yield from _json_lines(stream, file, flag)
            elif suffix == ".json":
                yield from _json_file(stream.read(), file, flag)
            else:
                read = _csv if suffix == ".csv" else _parquet
                yield from read(stream, file, flag)
    except InputError:
        raise
    except Exception as error:  # file systems and file formats have no common base class of errors
        raise InputError(f"{flag}: cannot read {file}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in plain words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = first_line(error)
    if isinstance(error, UnicodeError) or "invalid UTF8" in text or "\0" in text:
        return "it is not UTF-8 text; save it as UTF-8"
    if "columns, got" in text:
        return f"{text}; put cells that have commas or line breaks in quotation marks"
    if "straddl" in text or "block size" in text:
        size = MOST_BYTES_OF_CELL >> 20
        return f"a row has more than {size} MB, or a quotation mark is missing; use JSON lines"
    return "it does not fit into memory" if isinstance(error, MemoryError) else text


def _json_lines(lines: Iterable[bytes], file: str, flag: str) -> Rows:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file} line {number}"
            yield where, _parse(line.strip(), where, flag)


def _json_file(text: bytes, file: str, flag: str) -> Rows:
    """The rows of a JSON array; some .json files hold JSON lines."""
    text = text.removeprefix(codecs.BOM_UTF8).strip()
    is_list = text.startswith(b"[")
    try:
        value = _parse(text, file, flag)
    except InputError:
        if is_list:
            raise
        yield from _json_lines(text.splitlines(), file, flag)
        return
    if isinstance(value, dict) and not value.keys().isdisjoint(FIELDS):
        value = [value]
    if not isinstance(value, list):
        expected = '[{"prompt": ..., "completion": ...}, ...]'
        raise InputError(f"{flag}: {file} is JSON, but no list of records; expected {expected}")
    for number, row in enumerate(value, start=1):
        yield f"{file} record {number}", row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one field neither is the right one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        if twice := [field for field in FIELDS if names.count(field) > 1]:
            raise InputError(f"has {twice[0]!r} more than once")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _parse(text: bytes, where: str, flag: str) -> Any:
    try:
        return DECODER.decode(text.removeprefix(codecs.BOM_UTF8).decode())
    except InputError as error:
        raise InputError(f"{flag}: {where} {error}; keep one") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        reason = f"see {line}column {error.colno}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError:
        reason = "a number has too many digits"
    raise InputError(f"{flag}: {where} is not JSON that can be read: {reason}")


def _csv(stream: Any, file: str, flag: str) -> Rows:
    import pyarrow as pa
    import pyarrow.csv

    # Without types, "007" would be read as a number and "true" as a boolean.
    table = pa.csv.read_csv(
        stream,
        read_options=pa.csv.ReadOptions(block_size=MOST_BYTES_OF_CELL),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(FIELDS, pa.string())),
    )
    used = _used(table.column_names, file, flag)
    yield from _table_rows(table.select(used), table.column_names, file, flag)


def _parquet(stream: Any, file: str, flag: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(stream)
    names = parquet.schema_arrow.names
    used = _used(names, file, flag)
    if (count := parquet.metadata.num_rows) > MOST_ROWS:
        raise InputError(f"{flag}: {file} has {count:,} rows; split it, {MOST_ROWS:,} is the limit")
    for name in used:  # a list can hold any number of values in a row
        if pa.types.is_nested(kind := parquet.schema_arrow.field(name).type):
            raise InputError(f"{flag}: {file}: {name!r} is not a string but {kind}")
    yield from _table_rows(parquet.read(columns=used), names, file, flag)


def _used(names: Sequence[str], source: str, flag: str) -> list[str]:
    """The used ones of a table's columns.

    Raises:
        InputError: two columns have one of these names, or none has.
    """
    for name in FIELDS:
        if names.count(name) > 1:
            raise InputError(f"{flag}: {source} has {names.count(name)} columns {name!r}; keep one")
    if "prompt" not in names and "text" not in names:
        found = ", ".join(names) or "nothing"
        raise InputError(f"{flag}: {source} has no 'prompt' (found: {found})")
    asked = "prompt" if "prompt" in names else "text"
    return [name for name in (asked, "completion") if name in names]


def _table_rows(table: Any, names: Sequence[str], source: str, flag: str) -> Rows:
    """The rows of an Arrow table; columns that are not used are there by name only.

    Raises:
        InputError: a column has values that are not text.
    """
    import pyarrow as pa

    for name in table.column_names:
        column = table[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not is_text and not pa.types.is_string_view(kind) and column.null_count < len(column):
            number = column.is_valid().index(True).as_py() + 1
            where = f"{source} record {number}"
            raise InputError(f"{flag}: {where}: {name!r} is not a string but {kind}")
    # What else there is, for the message that a field is missing.
    others = {} if "completion" in names else dict.fromkeys(n for n in names if n not in FIELDS)
    number = 0
    for batch in table.to_batches(max_chunksize=65536):
        for row in batch.to_pylist():
            number += 1
            yield f"{source} record {number}", row | others if others else row


def _saved_rows(folder: Path, flag: str) -> Rows:
    """The rows of a data set that `datasets` has saved by `save_to_disk`."""
    from datasets import load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the library has no common base class of its errors
        raise InputError(
            f"{flag}: cannot load the saved data set {folder}: {first_line(error)}"
        ) from error
    if isinstance(saved, dict):
        for name in _training_part({name: name for name in saved}, folder, flag):
            yield from _dataset_rows(saved[name], f"{folder} {name}", flag)
    else:
        yield from _dataset_rows(saved, str(folder), flag)


def _hub_rows(source: str, flag: str) -> Rows:
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
    yield from _dataset_rows(dataset, source, flag)


def _dataset_rows(dataset: Any, source: str, flag: str) -> Rows:
    names = dataset.column_names
    used = _used(names, source, flag)
    table = dataset.select_columns(used).with_format("arrow")[:]
    yield from _table_rows(table, names, source, flag)
