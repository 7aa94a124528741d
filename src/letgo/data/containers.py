"""The rows of a file, unchecked: JSON, JSON lines, tables of text, Parquet, Arrow."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

from letgo.data.messages import DECODER, parsed
from letgo.errors import InputError, first_line

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSIONS = (".gz", ".zst", ".bz2")
# A small Parquet file can hold more rows than memory.
MOST_ROWS = 10_000_000
MOST_BYTES_OF_CELL = 1 << 28
ROWS_AT_ONCE = 8192

Rows = Iterator[tuple[str, Any]]  # each as (file and line, row)
Choose = Callable[[Sequence[str]], list[str]]  # of a table's columns those to read


def suffix(name: str) -> str:
    """The suffix that names a file's format, below that of a compression."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def stem(name: str) -> str:
    """The name of a data file without folder, format and compression."""
    name = PurePosixPath(name).name
    for known in (COMPRESSIONS, SUFFIXES):
        name = name.removesuffix(next((s for s in known if name.endswith(s)), ""))
    return name


def file_rows(file: str, flag: str, choose: Choose) -> Rows:
    """The rows of a file or URL.

    Raises:
        InputError: it cannot be read; names the flag, the file and the line.
    """
    kind = suffix(file)
    if kind not in SUFFIXES:
        raise InputError(f"{flag}: {file} is not one of {', '.join(SUFFIXES)}")
    try:
        if kind == ".jsonl":
            with _opened(file) as stream:
                yield from _json_lines(stream, file, flag)
        elif kind == ".json":
            with _opened(file) as stream:
                yield from _json_file(stream.read(), file, flag)
        else:
            read = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".arrow": _arrow}[kind]
            yield from read(file, flag, choose)
    except InputError:
        raise
    except Exception as error:  # file systems and file formats have no common base class of errors
        raise InputError(f"{flag}: cannot read {file}: {reason_of(error)}") from error


def _opened(file: str, seeks: bool = False) -> IO[bytes]:
    """A file's bytes without their compression; `seeks`: they are not read in their order."""
    import fsspec
    import pyarrow as pa

    if file.endswith(".zst"):  # which fsspec can only read with another package
        compressed = fsspec.open(file, "rb").open()
        stream = io.BufferedReader(pa.CompressedInputStream(compressed, "zstd"))
        return io.BytesIO(stream.read()) if seeks else stream
    return fsspec.open(file, "rb", compression="infer").open()


def reason_of(error: Exception) -> str:
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
        if line := line.strip():
            where = f"{file} line {number}"
            yield where, _parse(line, where, flag)


def _json_file(text: bytes, file: str, flag: str) -> Rows:
    """The rows of a JSON array, alone or as "data"; some .json files hold JSON lines."""
    text = text.removeprefix(codecs.BOM_UTF8).strip()
    is_list = text.startswith(b"[")
    try:
        value = _parse(text, file, flag)
    except InputError:
        if is_list:
            raise
        yield from _json_lines(text.splitlines(), file, flag)
        return
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        expected = '[{"prompt": ..., "completion": ...}, ...]'
        raise InputError(f"{flag}: {file} is JSON, but no list of records; expected {expected}")
    for number, row in enumerate(value, start=1):
        yield f"{file} record {number}", row


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


def _csv(file: str, flag: str, choose: Choose) -> Rows:
    import pyarrow as pa
    import pyarrow.csv

    delimiter = "\t" if suffix(file) == ".tsv" else ","
    with _opened(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        names = next(csv.reader(text, delimiter=delimiter), [])
    used = _chosen(choose, names, file, flag)
    with _opened(file) as stream:
        batches = pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(block_size=MOST_BYTES_OF_CELL),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            # Without types, "007" would be read as a number and "true" as a boolean.
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.string()), include_columns=used
            ),
        )
        for where, row in _table_rows(batches, file, flag):
            yield where, {name: _cell(value) for name, value in row.items()}


def _cell(text: str | None) -> Any:
    """A cell; a list of messages is written as JSON there."""
    if text and text.startswith("[{") and ('"role"' in text or '"from"' in text):
        try:
            return parsed(text, "cell")
        except InputError:
            return text
    return text


def _parquet(file: str, flag: str, choose: Choose) -> Rows:
    import pyarrow.parquet as pq

    with _opened(file, seeks=True) as stream:
        parquet = pq.ParquetFile(stream)
        used = _chosen(choose, parquet.schema_arrow.names, file, flag)
        if (count := parquet.metadata.num_rows) > MOST_ROWS:
            limit = f"split it, {MOST_ROWS:,} is the limit"
            raise InputError(f"{flag}: {file} has {count:,} rows; {limit}")
        batches = parquet.iter_batches(ROWS_AT_ONCE, columns=used)
        yield from _table_rows(batches, file, flag)


def _arrow(file: str, flag: str, choose: Choose) -> Rows:
    """The rows of an Arrow file (Feather) or of an Arrow stream, as `datasets` writes them."""
    import pyarrow as pa

    with _opened(file) as stream:
        is_file = stream.read(6) == b"ARROW1"
    with _opened(file, seeks=is_file) as stream:
        opened = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        used = _chosen(choose, opened.schema.names, file, flag)
        numbers = range(opened.num_record_batches) if is_file else ()
        batches = map(opened.get_batch, numbers) if is_file else opened
        yield from _table_rows((batch.select(used) for batch in batches), file, flag)


def _chosen(choose: Choose, names: Sequence[str], source: str, flag: str) -> list[str]:
    try:
        return choose(names)
    except InputError as error:
        raise InputError(f"{flag}: {source} {error}") from error


def dataset_rows(dataset: Any, source: str, flag: str, choose: Choose) -> Rows:
    """The rows of a data set of `datasets`, in memory or streamed."""
    used = _chosen(choose, dataset.column_names or [*next(iter(dataset), {})], source, flag)
    tables = dataset.select_columns(used).with_format("arrow").iter(ROWS_AT_ONCE)
    yield from _table_rows((b for table in tables for b in table.to_batches()), source, flag)


def _table_rows(batches: Iterable[Any], source: str, flag: str) -> Rows:
    """The rows of Arrow record batches.

    Raises:
        InputError: a column has values that are neither text nor numbers nor lists nor objects.
    """
    import pyarrow as pa

    number = 0
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if not _is_readable(kind) and column.null_count < len(column):
                first = number + column.is_valid().index(True).as_py() + 1
                where = f"{source} record {first}"
                raise InputError(f"{flag}: {where}: {name!r} is not a string but {kind}")
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            for row in batch.slice(start, ROWS_AT_ONCE).to_pylist():
                number += 1
                yield f"{source} record {number}", row


def _is_readable(kind: Any) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):  # JSON, as which `datasets` saves objects
        kind = kind.storage_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):  # a weight
        return True
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_string_view(kind) or pa.types.is_nested(kind)
