"""Which prompts the models are evaluated on, and their answers."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from letgo.data.records import Record
from letgo.data.splits import NEUTRAL
from letgo.data.tokens import chunks_by_length, example_ids, prompt_ids, training_row
from letgo.evaluation.answers import (
    METRICS,
    Reader,
    exact,
    letter,
    measure,
    number,
    reader,
    reader_of,
    reads,
)
from letgo.evaluation.neutral import neutral_nll
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_base_tokenizer
from letgo.run.folder import PROBE, Row, require
from letgo.run.inputs import VALIDATION, Run
from letgo.run.stage import in_chunks

# Names of the compared models, by their labels in files.
LABELS = {"base": "base", "sft": "SFT", "lwf": "LWF"}
# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8
# When an answer is right by each rule, and why it is the rule of a task.
RULES: dict[Reader, str] = {
    number: "its number after #### is the same, as {} right answers end with such a number",
    letter: "it begins with the same letter, as {} right answers are letters or options",
    exact: "it is the same text, as most right answers are neither options of their prompts nor "
    "numbers after ####",
}

Load = Callable[[], LanguageModel]


def baseline_folders(run: Run) -> dict[str, Path | None]:
    """Where the baselines are, "base" (which no stage has saved: None) and "sft".

    There is no SFT baseline unless plain fine-tuning ran to its end (`--optimum full`).
    """
    probe = require(run.folder, PROBE)
    return {"base": None} | ({"sft": probe} if run.settings.optimum == "full" else {})


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
    sets = evaluated_sets(run)
    rule = task_rule("learn", [r for records in sets.values() for r in records], label == "base")
    for name, records in sets.items():
        rows += _answers(run, scratch, label, name, records, load, rule)
    return rows + _neutral(scratch, label, load)


def task_rule(name: str, records: Sequence[Record], is_logged: bool) -> Reader:
    """The rule that judges the answers to all sets of a task, by all its right answers.

    Args:
        name: of the task.
        records: of its sets; those without a right answer do not count.
        is_logged: whether to log the rule, and how many right answers it does not read.
    """
    pairs = [(r.completion, r.prompt) for r in records if has_reference(r)]
    rule = reader([reference or "" for reference, _ in pairs], [prompt for _, prompt in pairs])
    if is_logged and pairs:
        count = sum(reads(rule, reference or "", prompt) for reference, prompt in pairs)
        reason = RULES[rule].format(f"{count} of {len(pairs)}")
        log.info("%s: an answer is right if %s", name, reason)
        if count < len(pairs):
            message = "%s: %d of %d right answers are of another kind and compared word for word"
            log.warning(message, name, len(pairs) - count, len(pairs))
    return rule


def has_reference(record: Record) -> bool:
    """Whether a record is a prompt with a right answer."""
    return bool(record.prompt and (record.completion or "").strip())


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
    run: Run,
    scratch: Path,
    label: str,
    name: str,
    records: list[Record],
    load: Load,
    rule: Reader,
) -> list[Row]:
    """One model's answers to one set, in the order of the set."""
    tokenizer = load_base_tokenizer(run.config)
    references = {record.id: record.completion or "" for record in records}
    prompts = [(record, prompt_ids(tokenizer, record.prompt)) for record in records]
    chunks = chunks_by_length(prompts, run.settings.generation_batch_size)
    lengths = [_lengths(tokenizer, record, len(ids)) for record, ids in prompts]

    def answer(chunk: list[tuple[Record, list[int]]]) -> list[Row]:
        lm = load()
        most = _longest_answer(lengths, lm.limit)
        if chunk is chunks[0]:
            _warn_of_the_limit(name, lengths, most, lm.limit)
        new = lm.generate([ids for _, ids in chunk], most)
        texts = lm.tokenizer.batch_decode(new, skip_special_tokens=True)
        nll = reference_nll(lm, {r.id: (r.prompt, references[r.id]) for r, _ in chunk})
        rows = []
        for (record, _), generated in zip(chunk, texts, strict=True):
            reference = references[record.id]
            read = reader_of(rule, reference, record.prompt)
            metrics = measure(read, generated, reference, nll.get(record.id, math.nan))
            shown = {"reference": reference.strip(), "generated": generated.strip()}
            rows.append(answer_row(label, name, record.id, metrics, prompt=record.prompt, **shown))
        return rows

    rows = in_chunks(f"evaluate {label} {name.replace(':', ' ')}", scratch, chunks, answer)
    return sorted(rows, key=lambda row: row["id"])


class Lengths(NamedTuple):
    """Tokens of a prompt, of its right answer, and of both together."""

    prompt: int
    reference: int
    both: int


def _lengths(tokenizer: Any, record: Record, prompt: int) -> Lengths:
    before, reference = map(len, example_ids(tokenizer, record.prompt, record.completion or ""))
    return Lengths(prompt, reference, before + reference)


def _longest_answer(lengths: Sequence[Lengths], limit: int) -> int:
    """The most new tokens of an answer, a few more than the longest reference that fits has."""
    fitting = [length.reference for length in lengths if length.both <= limit]
    return max(fitting, default=limit) + SPARE_TOKENS


def _warn_of_the_limit(name: str, lengths: Sequence[Lengths], most: int, limit: int) -> None:
    """Count the prompts of a set whose answers may be cut, and the references that do not fit."""
    if count := sum(length.prompt + most > limit for length in lengths):
        message = "evaluate %s: %d of %d prompts leave fewer than %d of %d tokens for an answer"
        log.warning(message + "; a longer one is cut", name, count, len(lengths), most, limit)
    if count := sum(length.both > limit for length in lengths):
        message = "evaluate %s: %d of %d right answers do not fit into %d tokens with their prompt"
        log.warning(message + "; they have no likelihood", name, count, len(lengths), limit)


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
