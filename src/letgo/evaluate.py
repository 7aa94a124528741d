"""Stage 4: what base, SFT and LWF answer, and how often they are right."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from letgo.answers import correct, reader
from letgo.data import chunks_by_length, example_ids, prompt_ids
from letgo.inference import context_length, generate
from letgo.models import load_base, load_base_tokenizer, load_trained
from letgo.progress import log
from letgo.records import Record
from letgo.stages import Run, in_chunks, need, write_json
from letgo.statistics import accuracy, paired_difference, verdict

# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8


MODELS = ("base", "sft", "lwf")


def evaluate(run: Run, scratch: Path) -> None:
    """Write `metrics.json` and `answers.parquet`: greedy answers against the references.

    The forgetting sets are asked as well where all their prompts have references. Without plain
    fine-tuning to its end (`--optimum full`) there is no SFT to compare with.
    """
    probe, model = need(run, "probe", "probe"), need(run, "model", "train")
    sets = {"learn": run.test}
    for name, records in run.forget.items():
        if all(record.completion for record in records):
            sets[f"forget:{name}"] = records
    table: list[dict[str, Any]] = []
    right: dict[tuple[str, str], list[bool]] = {}
    labels = MODELS if run.config.run.optimum == "full" else ("base", "lwf")
    for label in labels:
        # Loaded at the first question only: a resumed run may have all the answers.
        load = cache(
            {
                "base": partial(load_base, run.config),
                "sft": partial(load_trained, run.config, probe),
                "lwf": partial(load_trained, run.config, model),
            }[label]
        )
        for name, records in sets.items():
            rows = _answers(run, scratch, label, name, records, load)
            right[label, name] = [row["correct"] for row in rows]
            table += rows
    compared = sets if "sft" in labels else {}
    differences = {n: paired_difference(right["lwf", n], right["sft", n]) for n in compared}
    metrics = {
        "models": {m: {n: accuracy(right[m, n]) for n in sets} for m in labels},
        "lwf_minus_sft": differences,
        "verdict": verdict(differences["learn"]) if differences else "no baseline",
    }
    write_json(scratch / "metrics.json", metrics)
    pq.write_table(pa.Table.from_pylist(table), scratch / "answers.parquet")


def _answers(
    run: Run, scratch: Path, label: str, name: str, records: list[Record], load: Callable[[], Any]
) -> list[dict[str, Any]]:
    """One model's answers to one set, in the set's order."""
    tokenizer = load_base_tokenizer(run.config)
    references = {record.id: record.completion or "" for record in records}
    read = reader(list(references.values()))
    lengths = [len(example_ids(tokenizer, r.prompt, references[r.id])[1]) for r in records]
    room = max(lengths) + SPARE_TOKENS
    training = run.config.training

    def ask(chunk: list[tuple[Record, list[int]]]) -> list[dict[str, Any]]:
        model = load()
        limit = context_length(model.config, training.max_length)
        fitting = {record.id: ids for record, ids in chunk if len(ids) < limit}
        if len(fitting) < len(chunk):
            log.warning("evaluate %s: %d prompts of %d tokens or more count as wrong",
                        name, len(chunk) - len(fitting), limit)  # fmt: skip
        texts = dict.fromkeys(references, "")
        if fitting:
            prompts = list(fitting.values())
            most = min(room, limit - max(map(len, prompts)))  # the context ends somewhere
            new = generate(model, tokenizer, prompts, most, bool(training.bf16))
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
            texts.update(zip(fitting, decoded, strict=True))
        return [
            {
                "model": label,
                "set": name,
                "id": record.id,
                "prompt": record.prompt,
                "reference": references[record.id].strip(),
                "generated": texts[record.id].strip(),
                "correct": correct(read, texts[record.id], references[record.id]),
            }
            for record, _ in chunk
        ]

    prompts = [(record, prompt_ids(tokenizer, record.prompt)) for record in records]
    chunks = chunks_by_length(prompts, run.config.run.generation_batch_size)
    rows = in_chunks(f"evaluate {label} {name.replace(':', ' ')}", scratch, chunks, ask)
    return sorted(rows, key=lambda row: row["id"])
