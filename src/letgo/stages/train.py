"""Stage 3: fine-tuning with unlearning and keep steps (Learning With Forgetting)."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from letgo.data.records import Record
from letgo.data.tokens import batches_by_tokens, example_ids, training_row
from letgo.errors import InputError
from letgo.progress import log
from letgo.run import decisions
from letgo.run.audit import KEEP, UNLEARN, audit_id, has_decisions, read_audit, treatments
from letgo.run.base import load_base, load_base_tokenizer
from letgo.run.folder import (
    HEADROOM,
    KEPT,
    LWF,
    PLAIN_REASON,
    PROBE,
    SELECTION,
    TRAIN_LOG,
    Row,
    read_json,
    read_table,
    read_texts,
    require,
)
from letgo.run.inputs import Run
from letgo.run.sharing import link
from letgo.stages.fit import fit
from letgo.stages.losses import losses_by_index
from letgo.unlearning.losses import LOSSES

COLUMNS = ("prompt_ids", "completion_ids", "completion", "mean_logprob", "confidence", "score")


def train(run: Run, scratch: Path) -> None:
    """Write `lwf/` and `train_log.jsonl`: the base model after Learning With Forgetting.

    Where nothing would be unlearned or kept, they are those of the SFT baseline.

    Raises:
        InputError: `selection.parquet` lacks a decision of a review, or too few learning examples
            are left.
    """
    decided = decisions.read(run.folder)
    learn, wrong = _learning_examples(run, decided)
    wrong += _negative_examples(run, scratch)
    if len(learn) == len(run.learn) and not wrong and (reason := _nothing_to_do(run)):
        log.info("train: %s", reason)
        probe, lwf = require(run.folder, PROBE), scratch / LWF.name
        link(probe, lwf)
        (lwf / PLAIN_REASON).write_text(f"{reason}\n", encoding="utf-8")
        (lwf / TRAIN_LOG.name).rename(scratch / TRAIN_LOG.name)
        return
    training = copy.copy(run.training)
    if decided.fraction is not None:
        training.forget_fraction = decided.fraction
    if wrong and not run.unlearns:
        training.rescore_interval = 0  # learning examples are not chosen among
    run = replace(run, learn=learn, config=run.config._replace(training=training))
    forget = [*(_texts_to_unlearn(run) if run.unlearns else []), *wrong]
    if run.negative:
        forget = [{"weight": 1.0, **text} for text in forget]
    keep = read_table(require(run.folder, KEPT)).to_pylist() if run.keeps else None
    fit(run, scratch, scratch / LWF.name, "fine-tune (LWF)", forget or None, keep)


def _learning_examples(run: Run, decided: decisions.Decisions) -> tuple[list[Record], list[Row]]:
    """The examples that are still learned, and those to unlearn, as `_texts_to_unlearn`.

    With `--unlearning_interval 0` the latter are only left out.
    """
    if not run.audits and not has_decisions(decided):
        return run.learn, []
    table = read_audit(run.folder)
    ids, suspected = ([row[name] for row in table] for name in ("id", "suspected"))
    by_id = dict(zip(ids, treatments(ids, suspected, run.audits, decided), strict=True))
    learn = [record for record in run.learn if by_id.get(audit_id(record.id), KEEP) == KEEP]
    wrong = [row for row in table if by_id[row["id"]] == UNLEARN]
    dropped = list(by_id.values()).count(decisions.DROP)
    if not run.training.unlearning_interval:
        wrong, dropped = [], dropped + len(wrong)
    log.info(
        "train: of %d learning examples %d are dropped and %d unlearned",
        len(run.learn),
        dropped,
        len(wrong),
    )
    if not learn:
        raise InputError("--learn: the audit and its review leave no example; keep some of them")
    tokenizer = load_base_tokenizer(run.config)
    return learn, [
        _forced(
            tokenizer,
            row["prompt_ids"],
            row["completion_ids"],
            row["loss_base"],
            row["confidence"],
        )
        for row in wrong
        if math.isfinite(row["loss_base"])
    ]


def _negative_examples(run: Run, scratch: Path) -> list[Row]:
    """The learning examples with a weight below 0, as `_texts_to_unlearn`."""
    if not (run.negative and run.training.unlearning_interval):
        return []
    lm = load_base(run.config)
    ids = [example_ids(lm.tokenizer, r.prompt, r.completion or "") for r in run.negative]
    pairs = [(r, p, c) for r, (p, c) in zip(run.negative, ids, strict=True)]
    pairs = [pair for pair in pairs if len(pair[1]) + len(pair[2]) <= lm.limit]
    rows = [training_row(prompt, answer) for _, prompt, answer in pairs]
    lengths = [len(row["input_ids"]) for row in rows]
    batches = batches_by_tokens(lengths, run.settings.tokens_per_batch)
    losses = losses_by_index("examples to unlearn", scratch, lm, rows, batches)
    log.info("train: %d learning examples with a weight below 0 are unlearned", len(rows))
    return [
        {**_forced(lm.tokenizer, prompt, answer, losses[i], 0.0), "weight": -record.weight}
        for i, (record, prompt, answer) in enumerate(pairs)
    ]


def _forced(
    tokenizer: Any, prompt: list[int], answer: list[int], loss: float, confidence: float
) -> Row:
    """A row of `forget_dataset` that is unlearned whatever re-scoring selects."""
    return {
        "prompt_ids": prompt,
        "completion_ids": answer,
        "completion": tokenizer.decode(answer, skip_special_tokens=True),
        "mean_logprob": -loss,
        "confidence": confidence,
        "score": "",
        "selected": True,
        "allowed": True,
        "forced": True,
    }


def _nothing_to_do(run: Run) -> str:
    """Why the model would be the SFT baseline's; empty if it would be another one."""
    if run.settings.optimum != "full":
        return ""  # there is no SFT baseline
    batch = run.training.per_device_train_batch_size * run.training.gradient_accumulation_steps
    steps = math.ceil(math.ceil(len(run.learn) / batch) * run.training.num_train_epochs)
    steps = run.training.max_steps if run.training.max_steps > 0 else steps
    too_few = run.unlearns and steps < run.training.unlearning_interval
    # A keep set that nobody named only goes with unlearning steps.
    keeps = run.keeps and bool(run.settings.keep)
    if (not run.unlearns or too_few) and not keeps and run.training.regularizer == "none":
        why = f"{steps} learning steps, --unlearning_interval {run.training.unlearning_interval}"
        if run.audits and not run.unlearns:
            why = "the audit suspects no learning example"
        return f"nothing was unlearned ({why}): the model is the SFT baseline"
    if run.settings.require_headroom:
        found = read_json(require(run.folder, HEADROOM))
        if found and not found["old_answers"]:
            return (
                f"there is no headroom: none of the {found['errors']} errors of plain fine-tuning "
                f"on {found['n']} validation examples is the base model's own answer, so "
                f"--require_headroom stopped before unlearning: the model is the SFT baseline"
            )
    return ""


def _texts_to_unlearn(run: Run) -> list[Row]:
    """The rows of `LWFTrainer`'s `forget_dataset`."""
    selection = read_table(require(run.folder, SELECTION))
    if not decisions.is_current(selection.schema, decisions.read(run.folder)):
        raise InputError(
            f"--output_dir: selection.parquet lacks the last decision of {decisions.JOURNAL}; "
            f"`letgo review {run.folder}` writes it anew"
        )
    rescoring = run.training.rescore_interval != 0
    texts = read_texts(run.folder)
    columns = [*COLUMNS, *(n for n in ("habit", "span") if n in texts.column_names)]
    rights = _right_answers(run) if LOSSES[run.training.unlearning_loss].pairs else None
    return [
        {
            **{name: text[name] for name in columns},
            **({} if rights is None else {"right_ids": rights.get(text["id"])}),
            "selected": bool(text["selected"]),
            "allowed": may_be_unlearned(text, rescoring),
            "forced": is_forced(text),
        }
        for text in texts.to_pylist()
    ]


def _right_answers(run: Run) -> dict[str, list[int]]:
    """Token ids of the right answers to forgetting prompts that have one, by the text's id."""
    tokenizer = load_base_tokenizer(run.config)
    return {
        f"{name}:{record.id}": example_ids(tokenizer, record.prompt, record.completion)[1]
        for name, records in run.forget.items()
        for record in records
        if record.completion and record.completion.strip()
    }


def may_be_unlearned(text: Row, rescoring: bool) -> bool:
    """Whether a row of `selection.parquet` allows its text to be unlearned.

    Re-scoring selects again during training, so it may take a text that only the score left out.
    A text that was left out for any other reason, or by a person, stays out.
    """
    return bool(text["selected"]) or (rescoring and str(text["reason"]).startswith("below the top"))


def is_forced(text: Row) -> bool:
    """Whether a person decided that the text is unlearned, whatever re-scoring selects."""
    return bool(text["selected"]) and text["decided_by"] == "person"
