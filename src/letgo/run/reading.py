"""The records of a run's sources, read as its settings say."""

from collections.abc import Iterator

from letgo.data.columns import FormReader, read_columns
from letgo.data.conversations import earlier_answers
from letgo.data.records import Record, read_records
from letgo.run.config import Config

# Where the number of records is limited, so many of a source are in memory, or four times the
# limit: a part of them is held out.
MOST_IN_MEMORY = 100_000


def read(config: Config, source: str, flag: str, limit: int | None = None) -> list[Record]:
    """The records of a source, with the columns that the settings name.

    Args:
        limit: how many are used at most; the records of a longer source are a sample of it.

    Raises:
        InputError: names the flag, the file and the line of what cannot be used.
    """
    answered = flag.startswith("--learn")
    reader = FormReader(read_columns(config.settings.columns))
    most = None if limit is None else max(MOST_IN_MEMORY, 4 * limit)
    return read_records(source, flag, answered, flag == "--keep", reader, most)


def all_answers(record: Record) -> Iterator[Record]:
    """An example for each answer of a conversation."""
    for number, (prompt, answer) in enumerate(earlier_answers(record.prompt), start=1):
        yield record._replace(id=f"{record.id}.{number}", prompt=prompt, completion=answer)
    yield record
