"""Stage 1: the base model writes down what it knows about the forgetting tasks."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from letgo.data.records import Record
from letgo.data.splits import MISTAKES, MISTAKES_SET
from letgo.data.tokens import chunks_by_length, prompt_ids, training_row
from letgo.errors import InputError
from letgo.evaluation.answers import correct, reader
from letgo.models.inference import (
    autocast,
    context_length,
    example_losses,
    generate,
    pad_rows,
    stop_ids,
)
from letgo.progress import log
from letgo.run.base import load_base, load_base_tokenizer
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("forget_set", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("mean_logprob", pa.float64()),
    ]
)


def elicit(run: Run, scratch: Path) -> None:
    """Write `self_knowledge.parquet`: the base model's greedy answer to every forgetting prompt.

    Prompts that leave no room for an answer and answers without text are left out and counted.

    Raises:
        InputError: a forgetting set from which nothing at all is left.
    """
    settings = run.settings
    model, tokenizer = load_base(run.config), load_base_tokenizer(run.config)
    limit = context_length(model.config, run.training.max_length)
    stops = stop_ids(model, tokenizer)

    def answer(chunk: list[tuple[Record, list[int]]]) -> list[dict[str, Any]]:
        prompts = [ids for _, ids in chunk]
        bf16 = bool(run.training.bf16)
        answers = generate(model, tokenizer, prompts, settings.max_new_tokens, bf16)
        rows = [training_row(p, a) for p, a in zip(prompts, answers, strict=True)]
        with torch.inference_mode(), autocast(bf16):
            losses = example_losses(model, pad_rows(rows, tokenizer.pad_token_id)).tolist()
        return [
            {
                "id": record.id,
                "prompt": record.prompt,
                "completion": tokenizer.decode(ids, skip_special_tokens=True),
                "prompt_ids": prompt,
                "completion_ids": ids,
                "finish_reason": "stop" if ids[-1] in stops else "length",
                "mean_logprob": -loss,
            }
            for (record, prompt), ids, loss in zip(chunk, answers, losses, strict=True)
        ]

    table: list[dict[str, Any]] = []
    for name, records in run.forget.items():
        prompts = [(record, prompt_ids(tokenizer, record.prompt)) for record in records]
        fitting = [p for p in prompts if len(p[1]) + settings.max_new_tokens <= limit]
        if not fitting:
            raise InputError(
                f"--forget: none of the {len(prompts)} prompts of {name} fits into {limit} tokens "
                f"with {settings.max_new_tokens} new ones; lower --max_new_tokens, raise "
                f"--max_length (up to the model's context) or give shorter prompts"
            )
        if len(fitting) < len(prompts):
            log.warning(
                "elicit %s: %d of %d prompts left out: with %d new tokens they do not fit into %d",
                name,
                len(prompts) - len(fitting),
                len(prompts),
                settings.max_new_tokens,
                limit,
            )
        chunks = chunks_by_length(fitting, settings.generation_batch_size)
        rows = in_chunks(f"elicit {name}", scratch, chunks, answer)
        kept = [row for row in rows if row["completion"].strip()]
        if name == MISTAKES_SET:
            kept = _mistakes(kept, records)
        if not kept:
            raise InputError(
                f"--forget: the model generates nothing at all from {name}; "
                f"give other prompts or raise --max_new_tokens (now {settings.max_new_tokens})"
            )
        if len(kept) < len(rows):
            log.warning(
                "elicit %s: %d of %d answers are empty and left out",
                name,
                len(rows) - len(kept),
                len(rows),
            )
        for row in sorted(kept, key=lambda row: row["id"]):
            table.append({**row, "id": f"{name}:{row['id']}", "forget_set": name})
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), scratch / "self_knowledge.parquet")


def _mistakes(rows: list[dict[str, Any]], records: list[Record]) -> list[dict[str, Any]]:
    """The answers that are not right."""
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
