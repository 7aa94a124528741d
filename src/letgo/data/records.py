"""Reading data sets, and checking every record."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from letgo.data import sources
from letgo.data.columns import FormReader
from letgo.data.conversations import as_given
from letgo.data.reservoir import Reservoir
from letgo.errors import InputError, printable
from letgo.progress import log


class Record(NamedTuple):
    """One checked row of a data set.

    Args:
        id: distinct within its set.
        prompt: up to where the answer is asked; empty for a text without a prompt. More than one
            message of text is a `Conversation`, a string that knows its messages.
        completion: the answer or the text, if there is one.
        where: file and line, for error messages.
        references: all right answers, the completion first, where there are several.
        choices: the options that the question gives, if they are listed.
        weight: of a learning example, from -1 (unlearn) to 1 (learn).
    """

    id: str
    prompt: str
    completion: str | None
    where: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    weight: float = 1.0


def read_records(
    source: str,
    flag: str,
    completion: bool,
    texts: bool = False,
    reader: FormReader | None = None,
    most: int | None = None,
) -> list[Record]:
    """Read and check a data set.

    Args:
        source: a local file in one of `containers.SUFFIXES`, a folder of such files or of splits,
            a folder of `save_to_disk`, an fsspec URL of such a file, or a hub id (`id`,
            `id:split` or `id:config:split`, each also with `@revision` after the id).
        flag: the flag that `source` came from, for error messages.
        completion: whether every record must have an answer.
        texts: whether a record may be a text; it has no prompt, the text is its completion.
        reader: reads the records of a form, by its columns; a new one by default.
        most: so many records are kept, sampled by chance from all; by default all of them.

    Returns:
        the records, in the order of the file. A prompt or an answer that is more than one
        message of text is a `Conversation`.

    Raises:
        InputError: the source is missing or empty, or a record cannot be used; the message names
            the flag, the file and the line.
    """
    reader = reader or FormReader()
    sampled: Reservoir[Record] = Reservoir(most)
    rows = sources.rows(source, flag, reader.columns, streamed=most is not None)
    try:
        for number, (where, row) in enumerate(rows, start=1):
            sampled.add(_check(row, number, where, flag, completion, texts, reader))
    except InputError as error:  # it may quote what the data say
        raise InputError(printable(str(error)).replace("\n", "\\n")) from error
    if not sampled.count:
        raise InputError(f"{flag}: {source} is empty; give a file with at least one record")
    if reader.first:
        columns = ", ".join(sorted(reader.seen))
        log.info("%s: %d records of %s (%s)", flag, sampled.count, reader.first.name, columns)
    if reader.named and reader.seen.isdisjoint(reader.named.values()):
        message = "%s: %s has none of the columns of --columns and is read by its own"
        log.warning(message, flag, source)
    return sampled.items


def _check(
    row: Any,
    number: int,
    where: str,
    flag: str,
    completion: bool,
    texts: bool,
    reader: FormReader,
) -> Record:
    try:
        if not isinstance(row, dict):
            raise InputError('not a record; expected {"prompt": ..., "completion": ...}')
        prompt, answer = reader.read(row)
        if not prompt and not texts:
            raise InputError("a text has no prompt to ask; only --keep takes texts")
        if completion and answer is None:
            raise reader.no_answer(row)
        if completion and not (answer or "").strip():
            raise InputError("the completion is empty")
        others, choices = reader.alternatives(row)
        weight = reader.weight(row) if completion else 1.0
    except InputError as error:
        raise InputError(f"{flag}: {where}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{flag}: {where}: it is nested too deeply") from error
    references = tuple(dict.fromkeys((answer, *others))) if answer and others else ()
    return Record(f"{number:06d}", prompt, answer, where, references, choices, weight)


def text_fingerprint(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(records: Iterable[Record]) -> str:
    """A digest of the records' prompts, answers and choices, independent of file names and ids."""
    digest = hashlib.sha256()
    for record in records:
        content = [as_given(record.prompt), as_given(record.completion)]
        if record.references or record.choices:
            content += [record.references, record.choices]
        if record.weight != 1:
            content.append(record.weight)
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()[:16]
