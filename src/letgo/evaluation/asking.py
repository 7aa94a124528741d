"""Which prompts the models are evaluated on, and their answers."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from letgo.data.records import Record
from letgo.data.splits import MISTAKES_SET, NEUTRAL, sample
from letgo.data.tokens import chunks_by_length, example_ids, prompt_ids, training_row
from letgo.evaluation.answers import measure, reader
from letgo.evaluation.neutral import neutral_nll
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_base, load_base_tokenizer, load_trained
from letgo.run.folder import PROBE, Row, require
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks

VALIDATION = "validation"
# Names of the compared models, by their labels in files.
LABELS = {"base": "base", "sft": "SFT", "lwf": "LWF"}
# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8
# Prompts evaluated of a forgetting set without references, so that a reader can look at answers.
UNJUDGED_PROMPTS = 4

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
    """The prompts that models answer, by set: test, validation and forgetting sets.

    Of forgetting sets without references only `UNJUDGED_PROMPTS`, which are not judged.
    """
    sets = {"learn": run.test}
    if run.validation:
        sets[VALIDATION] = run.validation
    for name, records in run.forget.items():
        if name == MISTAKES_SET:
            continue
        if not _have_references(records):  # a set is judged as a whole or not at all
            few = sample(records, UNJUDGED_PROMPTS, run.training.seed)
            records = [record._replace(completion=None) for record in few]
        sets[f"forget:{name}"] = records
    return sets


def _have_references(records: list[Record]) -> bool:
    return all(record.completion for record in records)


def all_answers(run: Run, scratch: Path, label: str, load: Load) -> list[Row]:
    """One model's answers to all sets, as rows of `answers.parquet`.

    Args:
        run: the run that has the prompts.
        scratch: the stage's scratch folder.
        label: a key of `LABELS`.
        load: loads the model; not called if a resumed run has all answers already.
    """
    load = cache(load)
    sets = evaluated_sets(run)
    if label == "base":
        sets.pop(VALIDATION, None)  # the validation set decides between SFT and LWF
    rows: list[Row] = []
    for name, records in sets.items():
        rows += _answers(run, scratch, label, name, records, load)
    return rows + _neutral(scratch, label, load)


def _row(label: str, name: str, id: str, metrics: Row, **texts: str) -> Row:
    """A row of `answers.parquet`; each metric is a column."""
    texts = {"prompt": "", "reference": "", "generated": "", **texts}
    return {"model": label, "set": name, "id": id, **texts, **metrics}


def _neutral(scratch: Path, label: str, load: Load) -> list[Row]:
    """Rows of the NLL of the neutral texts, to which there are no answers."""

    def read(_: list[None]) -> list[Row]:
        return [
            _row(label, NEUTRAL, name, {"correct": None, "reference_nll": nll})
            for name, nll in neutral_nll(load()).items()
        ]

    return in_chunks(f"evaluate {label} neutral text", scratch, [[None]], read)


def _answers(
    run: Run, scratch: Path, label: str, name: str, records: list[Record], load: Load
) -> list[Row]:
    """One model's answers to one set, in the order of the set."""
    tokenizer = load_base_tokenizer(run.config)
    judged = _have_references(records)
    references = {record.id: record.completion or "" for record in records}
    read = reader(list(references.values())) if judged else None
    lengths = [len(example_ids(tokenizer, r.prompt, references[r.id])[1]) for r in records]
    max_new_tokens = max(lengths) + SPARE_TOKENS if judged else run.settings.max_new_tokens

    def answer(chunk: list[tuple[Record, list[int]]]) -> list[Row]:
        lm = load()
        answers = _generated(lm, chunk, max_new_tokens)
        if judged and len(answers) < len(chunk):
            message = "evaluate %s: %d prompts of %d tokens or more count as wrong"
            log.warning(message, name, len(chunk) - len(answers), lm.limit)
        nll = _nll_of_references(lm, chunk, references) if judged and answers else {}
        rows = []
        for record, _ in chunk:
            generated, reference = answers.get(record.id, ""), references[record.id]
            metrics = measure(read, generated, reference, nll.get(record.id, math.nan))
            texts = {"reference": reference.strip(), "generated": generated.strip()}
            rows.append(_row(label, name, record.id, metrics, prompt=record.prompt, **texts))
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


def _nll_of_references(
    lm: LanguageModel, chunk: list[tuple[Record, list[int]]], references: dict[str, str]
) -> dict[str, float]:
    """Mean NLL of every reference that fits, nats per token: finer than right or wrong."""
    rows = {}
    for record, _ in chunk:
        row = training_row(*example_ids(lm.tokenizer, record.prompt, references[record.id]))
        if len(row["input_ids"]) <= lm.limit:
            rows[record.id] = row
    return dict(zip(rows, lm.losses(list(rows.values())), strict=True)) if rows else {}
