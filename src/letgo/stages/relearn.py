"""Stage 8b: how far the old answers come back after a little relearning (`--relearn K`)."""

import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from letgo.data.splits import sample
from letgo.data.tokens import generated_rows
from letgo.evaluation.held_out import held_out_answers
from letgo.models.inference import LanguageModel
from letgo.run.base import load_trained
from letgo.run.folder import (
    HELD_OUT,
    LWF,
    PROBE,
    RELEARNED,
    SELF_KNOWLEDGE,
    Row,
    read_table,
    require,
)
from letgo.run.inputs import FORGET_SET, Run
from letgo.run.stage import in_chunks
from letgo.unlearning.trainer import LWFTrainer


def relearn(run: Run, scratch: Path) -> None:
    """Write `relearned.parquet`: answers to held-out forgetting prompts after relearning.

    LWF and the SFT baseline each learn `--relearn` of the base model's own answers again, in one
    epoch with the settings of the run. Knowledge that was only hidden returns at once.
    """
    folders = {"lwf": require(run.folder, LWF)}
    if run.settings.optimum == "full":
        folders["sft"] = require(run.folder, PROBE)
    texts = read_table(require(run.folder, SELF_KNOWLEDGE)).to_pylist()
    texts = [text for text in texts if not text.get("habit")]
    rows = generated_rows(sample(texts, run.settings.relearn, run.training.seed))
    old = [
        row
        for row in read_table(require(run.folder, HELD_OUT)).to_pylist()
        if row["set"].startswith(FORGET_SET)
    ]

    def answers(labels: list[str]) -> list[Row]:
        (label,) = labels
        lm = load_trained(run.config, folders[label])
        _learn(run, lm, rows, scratch)
        return held_out_answers(run, scratch, label, lambda: lm, old)

    table = in_chunks("relearn", scratch, [[label] for label in folders], answers)
    pq.write_table(pa.Table.from_pylist(table), scratch / RELEARNED.name)


def _learn(run: Run, lm: LanguageModel, rows: list[dict[str, list[int]]], scratch: Path) -> None:
    """Train the model on the rows, in place."""
    arguments = copy.deepcopy(run.training)
    arguments.output_dir = str(scratch / "checkpoints")
    arguments.num_train_epochs, arguments.max_steps = 1, -1
    arguments.regularizer, arguments.save_strategy = "none", "no"
    arguments.eval_strategy, arguments.load_best_model_at_end = "no", False
    data = Dataset.from_list(rows)
    LWFTrainer(
        model=lm.model, args=arguments, train_dataset=data, processing_class=lm.tokenizer
    ).train()
    lm.model.eval()
