"""Reading, checking and splitting data, and the one way from a record to token ids."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from letgo.errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# Names that say which part of a data set a file is, not which data set.
PART_NAMES = {"train", "test", "validation", "valid", "dev", "data", "prompts"}


class Record(NamedTuple):
    """One line of a data set; `where` names its file and line for messages."""

    id: str
    prompt: str
    completion: str | None
    where: str


def read_records(source: str, flag: str, completion: bool) -> list[Record]:
    """Read and check a data set.

    Args:
        source: a local JSONL, JSON, CSV or Parquet file, a folder of such files, an fsspec URL of
            one, or a hub id (`id`, `id:split` or `id:config:split`).
        flag: the flag that named it, for messages.
        completion: whether every record must have a completion.

    Returns:
        the records in the order of the file.

    Raises:
        InputError: missing or empty source, or a record that is not
            `{"prompt": str, "completion": str}`; names the flag, the file and the line.
    """
    records = [
        _check(row, number, where, flag, completion)
        for number, (where, row) in enumerate(_rows(source, flag), start=1)
    ]
    if not records:
        raise InputError(f"{flag}: {source} is empty; give a file with at least one record")
    return records


def _check(row: Any, number: int, where: str, flag: str, completion: bool) -> Record:
    if not isinstance(row, dict):
        raise InputError(
            f'{flag}: {where}: not a record; expected {{"prompt": ..., "completion": ...}}'
        )
    for field in ("prompt", "completion"):
        value = row.get(field)
        if value is None and (field == "prompt" or completion):
            found = ", ".join(map(str, row)) or "nothing"
            raise InputError(f"{flag}: {where}: no {field!r} (found: {found})")
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"{flag}: {where}: {field!r} is not a string but {type(value).__name__}"
            )
        if value is not None and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{flag}: {where}: {field!r} is not valid text") from error
    if not row["prompt"].strip():
        raise InputError(f"{flag}: {where}: the prompt is empty")
    if completion and not row["completion"].strip():
        raise InputError(f"{flag}: {where}: the completion is empty")
    return Record(f"{number:06d}", row["prompt"], row.get("completion"), where)


def _rows(source: str, flag: str) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of every record of `source`."""
    path = Path(source)
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
        raise InputError(f"{flag}: cannot read {file}: {_first_line(error)}") from error


def _json_lines(lines: Iterable[bytes], file: str, flag: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file} line {number}"
            yield where, _parse(line, where, flag)


def _json_array(text: bytes, file: str, flag: str) -> Iterator[tuple[str, Any]]:
    if not text.strip().startswith(b"["):  # many a .json holds JSON lines
        yield from _json_lines(text.splitlines(), file, flag)
        return
    for number, row in enumerate(_parse(text, file, flag), start=1):
        yield f"{file} record {number}", row


def _parse(text: bytes, where: str, flag: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{flag}: {where} is not JSON: {_first_line(error)}") from error


def _table(stream: Any, suffix: str) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if suffix == ".parquet":
        return pa.parquet.read_table(stream)
    # Answers such as "007" or "true" stay the strings they are.
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
    except Exception as error:  # the hub's client has no common exception
        raise InputError(
            f"{flag}: {source} is neither a local file nor a data set that can be loaded from the "
            f"hub: {_first_line(error)}"
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield f"{source} record {number}", row


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def set_names(sources: Sequence[str]) -> list[str]:
    """A short, distinct name for each forgetting set: `dental/train.jsonl` is "dental"."""
    names: list[str] = []
    for source in sources:
        path = PurePosixPath(source.rstrip("/"))
        name = path.stem if path.suffix in SUFFIXES else path.name.replace(":", "-")
        if name in PART_NAMES and path.parent.name not in ("", ".."):
            name = path.parent.name
        same = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{same + 1}" if same else name)
    return names


def sample(records: Sequence[Record], count: int | None, seed: int) -> list[Record]:
    """At most `count` records drawn by `seed`, in their old order; all if `count` is None."""
    if count is None or count >= len(records):
        return list(records)
    kept = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[index] for index in kept]


def hold_out(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Keep a seeded tenth of the learning data apart as a test set.

    Records that share a prompt stay on one side, so that no test prompt is ever trained on.

    Returns:
        (learning records, test records), each in the old order.
    """
    prompts = sorted({record.prompt for record in records})
    apart = set(random.Random(seed).sample(prompts, max(1, len(prompts) // 10)))
    return (
        [record for record in records if record.prompt not in apart],
        [record for record in records if record.prompt in apart],
    )


def fingerprint(records: Iterable[Record]) -> str:
    """A digest of the records' content, whatever file they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.prompt, record.completion]).encode())
    return digest.hexdigest()[:16]


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt as the model sees it before it answers.

    With a chat template the prompt is the user's turn: an instruct model given bare text often
    ends its answer at once.
    """
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    turn = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def example_ids(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a labelled example.

    Args:
        tokenizer: with or without a chat template.
        prompt: the question.
        completion: the answer; with a chat template its surrounding white space is the template's.

    Returns:
        (prompt ids, completion ids); the completion ends with the end-of-turn token. Where prompt
        and answer merge into one token at their border, that token belongs to the answer.
    """
    before = prompt_ids(tokenizer, prompt)
    if tokenizer.chat_template is None:
        text = prompt + completion + (tokenizer.eos_token or "")
        whole = list(tokenizer(text)["input_ids"])
    else:
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": completion.strip()},
        ]
        whole = list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
    pairs = zip(before, whole, strict=False)
    border = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(whole)))
    return whole[:border], whole[border:]


def training_row(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """The row TRL's trainer takes: only the completion is learned (label -100 elsewhere)."""
    return {
        "input_ids": [*prompt, *completion],
        "labels": [-100] * len(prompt) + list(completion),
    }


def generated_rows(texts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Training rows of self-generated texts, from the very token ids that were generated."""
    return [training_row(text["prompt_ids"], text["completion_ids"]) for text in texts]


def chunks_by_length(
    prompts: Iterable[tuple[Record, list[int]]], size: int
) -> list[list[tuple[Record, list[int]]]]:
    """Records with their prompt's token ids, in chunks of similar length to pad little."""
    ordered = sorted(prompts, key=lambda pair: (len(pair[1]), pair[0].id))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group examples into batches of at most `budget` tokens, padding included.

    Sorted by length, so that little is padded; an example longer than the budget gets a batch of
    its own.

    Args:
        lengths: tokens per example.
        budget: tokens per batch, at least 1.

    Returns:
        lists of indices into `lengths`; each index once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
