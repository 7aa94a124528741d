"""Stage 1: the base model answers the forgetting prompts (self-knowledge)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.records import Record
from letgo.data.splits import MISTAKES, MISTAKES_SET
from letgo.data.tokens import chunks_by_length
from letgo.errors import InputError
from letgo.evaluation.asking import right_answers
from letgo.evaluation.own_answers import FIELDS, fitting_prompts, own_answers
from letgo.evaluation.rules import AUTO, LEARN, assigned, auto, is_wrong, measure, named
from letgo.progress import log
from letgo.run.base import load_to_ask
from letgo.run.folder import SELF_KNOWLEDGE, Row
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks

SCHEMA = pa.schema(dict.fromkeys(("id", "forget_set"), pa.string()) | FIELDS)


def elicit(run: Run, scratch: Path) -> None:
    """Write `self_knowledge.parquet`: the base model's greedy answer to every forgetting prompt.

    Prompts that leave no room for an answer, and answers without text, are left out and counted.

    Raises:
        InputError: nothing is left of a forgetting set.
    """
    lm, size = load_to_ask(run.config), run.settings.generation_batch_size
    length = run.settings.max_new_tokens
    table: list[Row] = []
    for name, records in run.forget.items():
        chunks = chunks_by_length(fitting_prompts(lm, "--forget", name, records, length), size)
        rows = in_chunks(
            f"elicit {name}", scratch, chunks, lambda chunk: own_answers(lm, chunk, length)
        )
        texts = [row for row in rows if row["completion"].strip()]
        if name == MISTAKES_SET:
            texts = _mistakes(run, texts, records)
        if not texts:
            raise InputError(
                f"--forget: the model answers nothing to any prompt of {name}; "
                f"use other prompts or raise --max_new_tokens (now {length})"
            )
        if len(texts) < len(rows):
            message = "elicit %s: %d of %d answers are empty and left out"
            log.warning(message, name, len(rows) - len(texts), len(rows))
        for row in sorted(texts, key=lambda row: row["id"]):
            table.append({**row, "id": f"{name}:{row['id']}", "forget_set": name})
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), scratch / SELF_KNOWLEDGE.name)


def _mistakes(run: Run, rows: list[Row], records: list[Record]) -> list[Row]:
    """The answers that are wrong."""
    name = assigned(run.settings)[LEARN]
    pairs = [(right_answers(record)[0], record.prompt) for record in records]
    rule = auto(pairs) if name == AUTO else named(name)
    right = {record.id: right_answers(record) for record in records}
    wrong = [
        row
        for row in rows
        if is_wrong(measure(rule, row["prompt"], right[row["id"]], row["completion"]))
    ]
    if not wrong:
        raise InputError(
            f"--forget {MISTAKES}: the model answers all {len(rows)} learning prompts "
            f"right; there is nothing to forget"
        )
    log.info("elicit: %d of %d answers to learning prompts are wrong", len(wrong), len(rows))
    return wrong
