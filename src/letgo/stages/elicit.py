"""Stage 1: the base model answers the forgetting prompts (self-knowledge)."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.data.records import Record
from letgo.data.splits import MISTAKES, MISTAKES_SET
from letgo.data.tokens import chunks_by_length, prompt_ids, training_row
from letgo.errors import InputError
from letgo.evaluation.answers import correct, reader
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_base
from letgo.run.folder import SELF_KNOWLEDGE, Row
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks

SCHEMA = pa.schema(
    dict.fromkeys(("id", "forget_set", "prompt", "completion"), pa.string())
    | dict.fromkeys(("prompt_ids", "completion_ids"), pa.list_(pa.int32()))
    | {"finish_reason": pa.string(), "mean_logprob": pa.float64()}
)
Prompt = tuple[Record, list[int]]  # with its token ids


def elicit(run: Run, scratch: Path) -> None:
    """Write `self_knowledge.parquet`: the base model's greedy answer to every forgetting prompt.

    Prompts that leave no room for an answer, and answers without text, are left out and counted.

    Raises:
        InputError: nothing is left of a forgetting set.
    """
    lm, size = load_base(run.config), run.settings.generation_batch_size
    answer = partial(_answers, lm, run.settings.max_new_tokens)
    table: list[Row] = []
    for name, records in run.forget.items():
        prompts = _fitting_prompts(lm, name, records, run.settings.max_new_tokens)
        rows = in_chunks(f"elicit {name}", scratch, chunks_by_length(prompts, size), answer)
        texts = [row for row in rows if row["completion"].strip()]
        if name == MISTAKES_SET:
            texts = _mistakes(texts, records)
        if not texts:
            raise InputError(
                f"--forget: the model answers nothing to any prompt of {name}; "
                f"use other prompts or raise --max_new_tokens (now {run.settings.max_new_tokens})"
            )
        if len(texts) < len(rows):
            message = "elicit %s: %d of %d answers are empty and left out"
            log.warning(message, name, len(rows) - len(texts), len(rows))
        for row in sorted(texts, key=lambda row: row["id"]):
            table.append({**row, "id": f"{name}:{row['id']}", "forget_set": name})
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), scratch / SELF_KNOWLEDGE.name)


def _fitting_prompts(
    lm: LanguageModel, name: str, records: list[Record], max_new_tokens: int
) -> list[Prompt]:
    """The prompts of a set that leave room for an answer within the context."""
    prompts = [(record, prompt_ids(lm.tokenizer, record.prompt)) for record in records]
    fitting = [p for p in prompts if len(p[1]) + max_new_tokens <= lm.limit]
    if not fitting:
        raise InputError(
            f"--forget: none of the {len(prompts)} prompts of {name} fits into {lm.limit} tokens "
            f"with {max_new_tokens} new ones; lower --max_new_tokens, raise --max_length (up to "
            f"the model's context) or use shorter prompts"
        )
    if len(fitting) < len(prompts):
        message = "elicit %s: %d of %d prompts left out: with %d new tokens they do not fit into %d"
        count = len(prompts) - len(fitting)
        log.warning(message, name, count, len(prompts), max_new_tokens, lm.limit)
    return fitting


def _answers(lm: LanguageModel, max_new_tokens: int, chunk: list[Prompt]) -> list[Row]:
    """Greedy answers as rows, with their mean log-probability in nats per token."""
    prompts = [ids for _, ids in chunk]
    answers = lm.generate(prompts, max_new_tokens)
    losses = lm.losses([training_row(p, a) for p, a in zip(prompts, answers, strict=True)])
    return [
        {
            "id": record.id,
            "prompt": record.prompt,
            "completion": lm.tokenizer.decode(ids, skip_special_tokens=True),
            "prompt_ids": prompt,
            "completion_ids": ids,
            "finish_reason": "stop" if ids[-1] in lm.stops else "length",
            "mean_logprob": -loss,
        }
        for (record, prompt), ids, loss in zip(chunk, answers, losses, strict=True)
    ]


def _mistakes(rows: list[Row], records: list[Record]) -> list[Row]:
    """The answers that are wrong."""
    references = {record.id: record.completion or "" for record in records}
    read = reader(list(references.values()))
    wrong = [row for row in rows if not correct(read, row["completion"], references[row["id"]])]
    if not wrong:
        raise InputError(
            f"--forget {MISTAKES}: the model answers all {len(rows)} learning prompts "
            f"right; there is nothing to forget"
        )
    log.info("elicit: %d of %d answers to learning prompts are wrong", len(wrong), len(rows))
    return wrong
