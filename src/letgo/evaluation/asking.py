"""Which prompts the models are evaluated on, and their answers."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from letgo.data.records import Record
from letgo.data.splits import NEUTRAL
from letgo.data.tokens import chunks_by_length, example_ids, prompt_ids, training_row
from letgo.evaluation.answers import METRICS, measure, reader
from letgo.evaluation.neutral import neutral_nll
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_base, load_base_tokenizer, load_trained
from letgo.run.folder import PROBE, Row, require
from letgo.run.inputs import VALIDATION, Run
from letgo.run.stage import in_chunks

# Names of the compared models, by their labels in files.
LABELS = {"base": "base", "sft": "SFT", "lwf": "LWF"}
# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8

Load = Callable[[], LanguageModel]


def baseline_models(run: Run) -> dict[str, Load]:
    """Loaders of the baselines, "base" and "sft".

    There is no SFT baseline unless plain fine-tuning ran to its end (`--optimum full`).
    """
    probe = require(run.folder, PROBE)
    loaders: dict[str, Load] = {"base": partial(load_base, run.config)}
    if run.settings.optimum == "full":
        loaders["sft"] = partial(load_trained, run.config, probe)
    return loaders


def evaluated_sets(run: Run) -> dict[str, list[Record]]:
    """The learning examples that models answer: the test set and the validation set."""
    sets = {"learn": run.test}
    return sets | {VALIDATION: run.validation} if run.validation else sets


def all_answers(run: Run, scratch: Path, label: str, load: Load) -> list[Row]:
    """One model's answers to the learning task's sets, as rows of `answers.parquet`.

    Args:
        run: the run that has the prompts.
        scratch: the stage's scratch folder.
        label: a key of `LABELS`.
        load: loads the model; not called if a resumed run has all answers already.
    """
    load = cache(load)
    rows: list[Row] = []
    for name, records in evaluated_sets(run).items():
        rows += _answers(run, scratch, label, name, records, load)
    return rows + _neutral(scratch, label, load)


def answer_row(label: str, name: str, id: str, metrics: Row, **texts: str) -> Row:
    """A row of `answers.parquet`; each metric is a column."""
    texts = {"prompt": "", "reference": "", "generated": "", **texts}
    measured = dict.fromkeys(METRICS) | metrics  # a table has the columns of its first row
    return {"model": label, "set": name, "id": id, **texts, **measured}


def _neutral(scratch: Path, label: str, load: Load) -> list[Row]:
    """Rows of the NLL of the neutral texts, to which there are no answers."""

    def read(_: list[None]) -> list[Row]:
        return [
            answer_row(label, NEUTRAL, name, {"correct": None, "reference_nll": nll})
            for name, nll in neutral_nll(load()).items()
        ]

    return in_chunks(f"evaluate {label} neutral text", scratch, [[None]], read)


def _answers(
    run: Run, scratch: Path, label: str, name: str, records: list[Record], load: Load
) -> list[Row]:
    """One model's answers to one set, in the order of the set."""
    tokenizer = load_base_tokenizer(run.config)
    references = {record.id: record.completion or "" for record in records}
    read = reader(list(references.values()))
    lengths = [len(example_ids(tokenizer, r.prompt, references[r.id])[1]) for r in records]
    max_new_tokens = max(lengths) + SPARE_TOKENS

    def answer(chunk: list[tuple[Record, list[int]]]) -> list[Row]:
        lm = load()
        answers = _generated(lm, chunk, max_new_tokens)
        if len(answers) < len(chunk):
            message = "evaluate %s: %d prompts of %d tokens or more count as wrong"
            log.warning(message, name, len(chunk) - len(answers), lm.limit)
        pairs = {record.id: (record.prompt, references[record.id]) for record, _ in chunk}
        nll = reference_nll(lm, pairs) if answers else {}
        rows = []
        for record, _ in chunk:
            generated, reference = answers.get(record.id, ""), references[record.id]
            metrics = measure(read, generated, reference, nll.get(record.id, math.nan))
            texts = {"reference": reference.strip(), "generated": generated.strip()}
            rows.append(answer_row(label, name, record.id, metrics, prompt=record.prompt, **texts))
        return rows

    prompts = [(record, prompt_ids(tokenizer, record.prompt)) for record in records]
    chunks = chunks_by_length(prompts, run.settings.generation_batch_size)
    rows = in_chunks(f"evaluate {label} {name.replace(':', ' ')}", scratch, chunks, answer)
    return sorted(rows, key=lambda row: row["id"])


def _generated(
    lm: LanguageModel, chunk: list[tuple[Record, list[int]]], max_new_tokens: int
) -> dict[str, str]:
    """Greedy answers by the record's id, to the prompts that leave room for one."""
    prompts = {record.id: ids for record, ids in chunk if len(ids) < lm.limit}
    if not prompts:
        return {}
    room = lm.limit - max(map(len, prompts.values()))
    new = lm.generate(list(prompts.values()), min(max_new_tokens, room))
    texts = lm.tokenizer.batch_decode(new, skip_special_tokens=True)
    return dict(zip(prompts, texts, strict=True))


def reference_nll(lm: LanguageModel, pairs: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Mean NLL of every right answer that fits, nats per token: finer than right or wrong.

    Args:
        pairs: prompts and right answers by their id.
    """
    rows = {}
    for name, (prompt, reference) in pairs.items():
        row = training_row(*example_ids(lm.tokenizer, prompt, reference))
        if len(row["input_ids"]) <= lm.limit:
            rows[name] = row
    return dict(zip(rows, lm.losses(list(rows.values())), strict=True)) if rows else {}
