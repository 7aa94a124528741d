"""What models are asked, and their answers."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from letgo.data.records import Record
from letgo.data.splits import MISTAKES_SET, NEUTRAL, sample
from letgo.data.tokens import chunks_by_length, example_ids, prompt_ids, training_row
from letgo.evaluation.answers import correct, reader
from letgo.evaluation.neutral import neutral_nll
from letgo.models.inference import autocast, context_length, example_losses, generate, pad_rows
from letgo.progress import log
from letgo.run.base import load_base, load_base_tokenizer, load_trained
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks, require

VALIDATION = "validation"


# What the models that are compared are called.
LABELS = {"base": "base", "sft": "SFT", "lwf": "LWF"}


# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8


SHOWN = 4  # prompts of a forgetting set without right answers, asked to be looked at


def baseline_models(run: Run) -> dict[str, Callable[[], Any]]:
    """How to load what Learning With Forgetting is compared with, "base" and "sft".

    Without plain fine-tuning to its end (`--optimum full`) there is no SFT to compare with.
    """
    probe = require(run, "probe", "probe")
    loads: dict[str, Callable[[], Any]] = {"base": partial(load_base, run.config)}
    if run.settings.optimum == "full":
        loads["sft"] = partial(load_trained, run.config, probe)
    return loads


def asked_sets(run: Run) -> dict[str, list[Record]]:
    """What the models are asked: test and validation set, and forgetting sets.

    Of those that lack references a few prompts, so that their answers can be looked at.
    """
    sets = {"learn": run.test}
    if run.validation:
        sets[VALIDATION] = run.validation
    for name, records in run.forget.items():
        if name == MISTAKES_SET:
            continue
        if not _have_references(records):  # nothing is judged where some are missing
            few = sample(records, SHOWN, run.training.seed)
            records = [record._replace(completion=None) for record in few]
        sets[f"forget:{name}"] = records
    return sets


def _have_references(records: list[Record]) -> bool:
    return all(record.completion for record in records)


def _all_answers(
    run: Run, scratch: Path, label: str, load: Callable[[], Any]
) -> list[dict[str, Any]]:
    """One model's answers to all sets."""
    # Loaded at the first question only: a resumed run may have all the answers.
    model = cache(load)
    sets = asked_sets(run)
    if label == "base":
        sets.pop(VALIDATION, None)  # it decides between the other two
    rows = [
        row
        for name, records in sets.items()
        for row in _answers(run, scratch, label, name, records, model)
    ]
    return rows + _neutral(run, scratch, label, model)


def _neutral(run: Run, scratch: Path, label: str, load: Callable[[], Any]) -> list[dict[str, Any]]:
    """Rows like those of answers, for texts that are read and not answered."""

    def read(_: list[None]) -> list[dict[str, Any]]:
        tokenizer = load_base_tokenizer(run.config)
        nll = neutral_nll(load(), tokenizer, bool(run.training.bf16))
        return [
            {
                "model": label,
                "set": NEUTRAL,
                "id": name,
                "prompt": "",
                "reference": "",
                "generated": "",
                "correct": None,
                "reference_nll": value,
            }
            for name, value in nll.items()
        ]

    return in_chunks(f"evaluate {label} neutral text", scratch, [[None]], read)


def _answers(
    run: Run, scratch: Path, label: str, name: str, records: list[Record], load: Callable[[], Any]
) -> list[dict[str, Any]]:
    """One model's answers to one set, in the set's order."""
    tokenizer = load_base_tokenizer(run.config)
    judged = _have_references(records)
    references = {record.id: record.completion or "" for record in records}
    read = reader(list(references.values()))
    lengths = [len(example_ids(tokenizer, r.prompt, references[r.id])[1]) for r in records]
    room = max(lengths) + SPARE_TOKENS if judged else run.settings.max_new_tokens
    training = run.training

    def ask(chunk: list[tuple[Record, list[int]]]) -> list[dict[str, Any]]:
        model = load()
        limit = context_length(model.config, training.max_length)
        fitting = {record.id: ids for record, ids in chunk if len(ids) < limit}
        if judged and len(fitting) < len(chunk):
            log.warning(
                "evaluate %s: %d prompts of %d tokens or more count as wrong",
                name,
                len(chunk) - len(fitting),
                limit,
            )
        texts, nll = dict.fromkeys(references, ""), dict.fromkeys(references, math.nan)
        if fitting:
            prompts = list(fitting.values())
            most = min(room, limit - max(map(len, prompts)))  # the context ends somewhere
            new = generate(model, tokenizer, prompts, most, bool(training.bf16))
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
            texts.update(zip(fitting, decoded, strict=True))
            if judged:
                nll.update(
                    _nll_of_references(model, tokenizer, chunk, references, limit, training.bf16)
                )
        rows = []
        for record, _ in chunk:
            text, reference = texts[record.id], references[record.id]
            right = correct(read, text, reference) if judged else None
            rows.append(
                {
                    "model": label,
                    "set": name,
                    "id": record.id,
                    "prompt": record.prompt,
                    "reference": reference.strip(),
                    "generated": text.strip(),
                    "correct": right,
                    "reference_nll": nll[record.id],
                }
            )
        return rows

    prompts = [(record, prompt_ids(tokenizer, record.prompt)) for record in records]
    chunks = chunks_by_length(prompts, run.settings.generation_batch_size)
    rows = in_chunks(f"evaluate {label} {name.replace(':', ' ')}", scratch, chunks, ask)
    return sorted(rows, key=lambda row: row["id"])


@torch.inference_mode()
def _nll_of_references(
    model: Any,
    tokenizer: Any,
    chunk: list[tuple[Record, list[int]]],
    references: dict[str, str],
    limit: int,
    bf16: bool | None,
) -> dict[str, float]:
    """Mean NLL of every reference that fits, nats per token: finer than right or wrong."""
    rows = {
        record.id: training_row(*example_ids(tokenizer, record.prompt, references[record.id]))
        for record, _ in chunk
    }
    rows = {name: row for name, row in rows.items() if len(row["input_ids"]) <= limit}
    if not rows:
        return {}
    with autocast(bool(bf16)):
        losses = example_losses(model, pad_rows(list(rows.values()), tokenizer.pad_token_id))
    return dict(zip(rows, losses.tolist(), strict=True))
