"""Stage 1: the base model answers the forgetting prompts (self-knowledge)."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.habits import Habit
from letgo.data.records import Record
from letgo.data.splits import LOOPS, LOOPS_SET, MISTAKES, MISTAKES_SET
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
# Of a run with habits: the name of the text's habit, and whether each token shows it.
HABITS = {"habit": pa.string(), "span": pa.list_(pa.bool_())}


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
        if name in run.habits:
            texts = _with_spans(run, name, texts, lm.tokenizer)
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
    schema = pa.schema([*SCHEMA, *pa.schema(HABITS)]) if run.habits else SCHEMA
    pq.write_table(pa.Table.from_pylist(table, schema), scratch / SELF_KNOWLEDGE.name)


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


def _with_spans(run: Run, name: str, rows: list[Row], tokenizer: Any) -> list[Row]:
    """The answers with the tokens that show the habit of their set.

    Where the model is asked again in training, those without stay: what it says then counts.

    Raises:
        InputError: no answer shows it, nor will one in training.
    """
    habit = run.habits[name]
    rows = [
        {**row, "habit": habit.name, "span": habit.mask(tokenizer, row["completion_ids"])}
        for row in rows
    ]
    shown = [row for row in rows if any(row["span"])]
    log.info("elicit %s: %d of %d answers show the habit", name, len(shown), len(rows))
    asked = run.training.asks(habit.name)
    if not shown and not (asked and (name == LOOPS_SET or _is_learned(run, habit, tokenizer))):
        flag = f"--forget {LOOPS}" if name == LOOPS_SET else "--forget_pattern"
        what = "repeats itself" if name == LOOPS_SET else f"matches {' or '.join(habit.patterns)}"
        raise InputError(
            f"{flag}: none of the {len(rows)} answers of the base model {what}; use other prompts, "
            f"raise --max_new_tokens (now {run.settings.max_new_tokens})"
            + ("" if name != LOOPS_SET else ", or set --self_knowledge current")
        )
    return rows if asked else shown


def _is_learned(run: Run, habit: Habit, tokenizer: Any) -> bool:
    """Whether a completion of the learning data shows the habit: the model may take it up."""
    found = any(
        habit.shows(tokenizer, tokenizer(record.completion or "")["input_ids"])
        for record in run.learn
    )
    if found:
        log.warning("--forget_pattern: only the learning data have it, not the model's answers")
    return found
