"""Which prompts the models are evaluated on, and their answers."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from letgo.data.records import Record
from letgo.data.splits import NEUTRAL
from letgo.data.tokens import chunks_by_length, example_ids, prompt_ids, training_row
from letgo.errors import InputError
from letgo.evaluation.habits import SFT_RULE, habit_metrics
from letgo.evaluation.likelihood import Likeliest, Question, likeliest, options_of_records
from letgo.evaluation.neutral import neutral_nll
from letgo.evaluation.rules import (
    AUTO,
    LEARN,
    METRICS,
    REASONS,
    Rule,
    assigned,
    auto,
    measure,
    named,
)
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.base import load_base_tokenizer
from letgo.run.config import Config
from letgo.run.folder import PROBE, Row, require
from letgo.run.inputs import VALIDATION, Run, open_run
from letgo.run.stage import in_chunks
from letgo.run.values import short

# Names of the compared models, by their labels in files.
LABELS = {"base": "base", "sft": "SFT", SFT_RULE: "SFT, rule", "lwf": "LWF"}
# An answer may be a little longer than the longest reference before it is cut.
SPARE_TOKENS = 8

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
    rule = task_rule(run, LEARN, label == "base")
    options = _options(run, label == "base") if run.settings.likelihood_accuracy else {}
    for name, records in sets.items():
        rows += _answers(run, scratch, label, name, records, load, rule, options)
    return rows + _neutral(scratch, label, load)


def task_rule(run: Run, task: str, is_logged: bool = False) -> Rule:
    """The rule that judges the answers to all sets of a task, by `--answer` or its right answers.

    Args:
        run: the run that has the sets.
        task: "learn", or the name of a forgetting or keep set in `answers.parquet`.
        is_logged: whether to log the rule, and how many right answers it does not read.
    """
    pairs = [(right_answers(r)[0], r.prompt) for r in _judged(run, task)]
    name = assigned(run.settings).get(task, AUTO)
    rule = auto(pairs) if name == AUTO else named(name)
    if is_logged and pairs:
        count = sum(rule.reads(*pair) for pair in pairs)
        reason = rule.meaning
        if name == AUTO:
            reason = REASONS[rule.name].format(f"{count} of {len(pairs)}")
        verb = "is worth" if rule.is_graded else "is right if"
        log.info("%s: an answer %s %s (rule %s)", task, verb, reason, rule.name)
        if count < len(pairs):
            message = "%s: %d of %d right answers are of another kind and compared word for word"
            log.warning(message, task, len(pairs) - count, len(pairs))
    return rule


def _judged(run: Run, task: str) -> list[Record]:
    """The evaluated records of a task that have a right answer."""
    if task == LEARN:
        sets = [*evaluated_sets(run).values()]
    else:
        sets = [run.held_out.get(name, []) for name in (task, f"{VALIDATION}:{task}")]
    return [record for records in sets for record in records if has_reference(record)]


def open_judged(config: Config) -> Run:
    """Read and check all data of a run, and whether the rules of `--answer` can judge its answers.

    Raises:
        InputError: as of `open_run`; or there is no such rule, a set has no right answers, or none
            that its rule can read, or a function of the user raises.
    """
    for name in assigned(config.settings).values():
        if name != AUTO:
            named(name)
    run = open_run(config)
    _check_rules(run)
    return run


def _check_rules(run: Run) -> None:
    for task, name in assigned(run.settings).items():
        records = [] if name == AUTO else _judged(run, task)
        if name != AUTO and not records and f"{task}={name}" in run.settings.answer:
            raise InputError(
                f"--answer {task}={name}: no evaluated prompt of {task} has a right answer; "
                f"leave the rule out, or add a completion to its records"
            )
        if not records:
            continue
        pairs = ((right, r.prompt) for r in records for right in right_answers(r))
        if not any(named(name).reads(*pair) for pair in pairs):
            first = records[0]
            raise InputError(
                f"--answer {name}: it can read none of the {len(records)} right answers of {task} "
                f"(first: {first.where}: {short(right_answers(first)[0])!r}); give another rule, "
                f"e.g. {task}=auto"
            )
        right = right_answers(records[0])
        named(name).metric(records[0].prompt, right, right[0])


def has_reference(record: Record) -> bool:
    """Whether a record is a prompt with a right answer."""
    return bool(record.prompt and (record.completion or "").strip())


def right_answers(record: Record) -> tuple[str, ...]:
    """The right answers to a prompt, first the one that is shown; none if there is none."""
    return (record.references or (record.completion or "",)) if has_reference(record) else ()


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
    rule: Rule,
    options: dict[str, list[str]],
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
        asked = [Question(r.prompt, references[r.id], options.get(r.prompt, [])) for r, _ in chunk]
        likely = likeliest(lm, asked) if options else [Likeliest(None, None)] * len(chunk)
        rows = []
        for (record, _), generated, ids, right in zip(chunk, texts, new, likely, strict=True):
            metrics = measure(rule, record.prompt, right_answers(record), generated)
            metrics["reference_nll"] = nll.get(record.id, math.nan)
            metrics |= {"likeliest": right.per_token, "likeliest_whole": right.whole}
            metrics |= habit_metrics(run, name, lm, ids)
            shown = {"reference": references[record.id].strip(), "generated": generated.strip()}
            rows.append(answer_row(label, name, record.id, metrics, prompt=record.prompt, **shown))
        return rows

    rows = in_chunks(f"evaluate {label} {name.replace(':', ' ')}", scratch, chunks, answer)
    return sorted(rows, key=lambda row: row["id"])


def _options(run: Run, is_logged: bool) -> dict[str, list[str]]:
    """The options of the learning task's prompts, if it has any."""
    records = _judged(run, LEARN)
    options = options_of_records(records)
    if not any(options) and is_logged:
        log.warning("--likelihood_accuracy: the right answers of learn are no options; left out")
    return {record.prompt: found for record, found in zip(records, options, strict=True) if found}


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
