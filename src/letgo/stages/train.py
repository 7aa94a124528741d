"""Stage 3: fine-tuning with unlearning and keep steps (Learning With Forgetting)."""

import copy
import math
from dataclasses import replace
from pathlib import Path

from letgo.errors import InputError
from letgo.progress import log
from letgo.run import decisions
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

COLUMNS = ("prompt_ids", "completion_ids", "completion", "mean_logprob", "confidence", "score")


def train(run: Run, scratch: Path) -> None:
    """Write `lwf/` and `train_log.jsonl`: the base model after Learning With Forgetting.

    Where nothing would be unlearned or kept, they are those of the SFT baseline.

    Raises:
        InputError: `selection.parquet` lacks a decision of a review.
    """
    if reason := _nothing_to_do(run):
        log.info("train: %s", reason)
        probe, lwf = require(run.folder, PROBE), scratch / LWF.name
        link(probe, lwf)
        (lwf / PLAIN_REASON).write_text(f"{reason}\n", encoding="utf-8")
        (lwf / TRAIN_LOG.name).rename(scratch / TRAIN_LOG.name)
        return
    decided = decisions.read(run.folder) if run.unlearns else None
    if decided and decided.fraction is not None:
        training = copy.copy(run.training)
        training.forget_fraction = decided.fraction
        run = replace(run, config=run.config._replace(training=training))
    forget = _texts_to_unlearn(run) if run.unlearns else None
    keep = read_table(require(run.folder, KEPT)).to_pylist() if run.keeps else None
    fit(run, scratch, scratch / LWF.name, "fine-tune (LWF)", forget, keep)


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
    return [
        {
            **{name: text[name] for name in COLUMNS},
            "selected": bool(text["selected"]),
            "allowed": may_be_unlearned(text, rescoring),
            "forced": is_forced(text),
        }
        for text in read_texts(run.folder).to_pylist()
    ]


def may_be_unlearned(text: Row, rescoring: bool) -> bool:
    """Whether a row of `selection.parquet` allows its text to be unlearned.

    Re-scoring selects again during training, so it may take a text that only the score left out.
    A text that was left out for any other reason, or by a person, stays out.
    """
    return bool(text["selected"]) or (rescoring and str(text["reason"]).startswith("below the top"))


def is_forced(text: Row) -> bool:
    """Whether a person decided that the text is unlearned, whatever re-scoring selects."""
    return bool(text["selected"]) and text["decided_by"] == "person"
