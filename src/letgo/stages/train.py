"""Stage 3: fine-tuning with periodic unlearning (Learning With Forgetting)."""

import copy
from dataclasses import replace
from pathlib import Path

from letgo.errors import InputError
from letgo.run import decisions
from letgo.run.folder import LWF, SELECTION, Row, read_table, read_texts, require
from letgo.run.inputs import Run
from letgo.stages.fit import fit

COLUMNS = ("prompt_ids", "completion_ids", "completion", "mean_logprob", "confidence", "score")


def train(run: Run, scratch: Path) -> None:
    """Write `lwf/` and `train_log.jsonl`: the base model after Learning With Forgetting.

    Raises:
        InputError: `selection.parquet` lacks a decision of a review.
    """
    decided = decisions.read(run.folder)
    selection = read_table(require(run.folder, SELECTION))
    if not decisions.is_current(selection.schema, decided):
        raise InputError(
            f"--output_dir: selection.parquet lacks the last decision of {decisions.JOURNAL}; "
            f"`letgo review {run.folder}` writes it anew"
        )
    if decided.fraction is not None:
        training = copy.copy(run.training)
        training.forget_fraction = decided.fraction
        run = replace(run, config=run.config._replace(training=training))
    rescoring = run.training.rescore_interval != 0
    forget = [
        {
            **{name: text[name] for name in COLUMNS},
            "selected": bool(text["selected"]),
            "allowed": may_be_unlearned(text, rescoring),
            "forced": is_forced(text),
        }
        for text in read_texts(run.folder).to_pylist()
    ]
    fit(run, scratch, scratch / LWF.name, "fine-tune (LWF)", forget)


def may_be_unlearned(text: Row, rescoring: bool) -> bool:
    """Whether a row of `selection.parquet` allows its text to be unlearned.

    Re-scoring selects again during training, so it may take a text that only the score left out.
    A text that was left out for any other reason, or by a person, stays out.
    """
    return bool(text["selected"]) or (rescoring and str(text["reason"]).startswith("below the top"))


def is_forced(text: Row) -> bool:
    """Whether a person decided that the text is unlearned, whatever re-scoring selects."""
    return bool(text["selected"]) and text["decided_by"] == "person"
