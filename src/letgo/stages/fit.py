"""Fine-tuning as a resumable piece of a stage; the probe and the final training share it."""

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from trl import get_peft_config

from letgo.data.records import Record
from letgo.data.tokens import example_ids, prompt_ids, training_row
from letgo.errors import InputError
from letgo.models.inference import context_length
from letgo.progress import Progress, log
from letgo.run.base import load_base, load_base_tokenizer
from letgo.run.config import Config
from letgo.run.inputs import Run
from letgo.unlearning.trainer import LWFTrainer


def learning_rows(
    config: Config, tokenizer: Any, records: list[Record], model_config: Any
) -> list[dict[str, list[int]]]:
    """Token ids and labels of learning examples.

    Examples longer than the context are left out and counted: cut short, they would teach an
    answer without its end.

    Raises:
        InputError: none fits.
    """
    limit = context_length(model_config, config.training.max_length)
    rows = [training_row(*example_ids(tokenizer, r.prompt, r.completion or "")) for r in records]
    asked = [prompt_ids(tokenizer, r.prompt) for r in records]
    shown = [row["input_ids"][: row["labels"].count(-100)] for row in rows]
    if sum(a != b for a, b in zip(asked, shown, strict=True)) > len(rows) / 2:
        log.warning(
            "the chat template shows a prompt otherwise when its answer follows: the model "
            "is trained on another text than it is asked with"
        )
    long = [r for r, row in zip(records, rows, strict=True) if len(row["input_ids"]) > limit]
    if long:
        message = (
            f"{len(long)} of {len(records)} learning examples are longer than {limit} tokens "
            f"and are left out (first: {long[0].where}); "
            f"raise --max_length up to the model's context"
        )
        if len(long) == len(records):
            raise InputError(f"--learn: {message}")
        log.warning("%s", message)
    return [row for row in rows if len(row["input_ids"]) <= limit]


def fit(
    run: Run,
    scratch: Path,
    target: Path,
    name: str,
    forget: list[dict[str, Any]] | None = None,
    adapter: PeftConfig | None = None,
) -> None:
    """Fine-tune the base model and save it; goes on from the last whole checkpoint in `scratch`.

    Args:
        run: whose learning data and settings are used.
        scratch: the stage's scratch folder; checkpoints and `train_log.jsonl` are written there.
        target: folder for the model or adapter, its tokenizer and model card.
        name: for the progress bar.
        forget: the texts to unlearn, as `LWFTrainer` takes them; None for plain fine-tuning.
        adapter: instead of the one the settings ask for.

    Raises:
        InputError: too little data, or settings that the trainer refuses.
    """
    config = run.config
    arguments = copy.deepcopy(config.training)
    arguments.output_dir = str(scratch / "checkpoints")
    if forget is None:
        arguments.regularizer = "none"
    arguments.save_only_model = False  # without the optimizer's state a run cannot go on
    if arguments.completion_only_loss is False:
        raise InputError("--completion_only_loss false: letgo learns completions only")
    model, tokenizer = load_base(config), load_base_tokenizer(config)
    rows = learning_rows(config, tokenizer, run.learn, model.config)
    batch = arguments.per_device_train_batch_size
    if len(rows) < batch:
        raise InputError(
            f"--learn: {len(rows)} examples are fewer than one batch of {batch}; "
            f"give more, or lower --per_device_train_batch_size"
        )
    try:
        trainer = LWFTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            forget_dataset=Dataset.from_list(forget) if forget else None,
            processing_class=tokenizer,
            peft_config=adapter or get_peft_config(config.adapter),
            callbacks=[
                _TimedCheckpoint(60 * config.settings.checkpoint_minutes),
                _ShowProgress(name),
            ],
        )
    except InputError:
        raise
    except ValueError as error:  # TRL and PEFT refuse settings that do not go together
        raise InputError(f"{name}: {error}") from error
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(arguments.output_dir)))
    if hasattr(text_config := model.config.get_text_config(), "output_router_logits"):
        # TRL asks experts' routers for their logits; a model that is saved so cannot generate with
        # a cache (its auxiliary loss takes the mask's length for the step's).
        text_config.output_router_logits = False
    trainer.save_model(str(target))
    (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml says the same
    trainer.create_model_card(model_name=run.folder.resolve().name)
    card = Path(arguments.output_dir) / "README.md"
    if card.exists():
        card.replace(target / "README.md")
    with (scratch / "train_log.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in trainer.state.log_history)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; unfinished ones are removed.

    The trainer writes `trainer_state.json` last.
    """
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
            whole.append((step, path))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
    return str(max(whole)[1]) if whole else None


class _TimedCheckpoint(TrainerCallback):
    """A checkpoint every so many seconds, however long a step takes."""

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()


class _ShowProgress(TrainerCallback):
    """The trainer's steps in letgo's progress bar."""

    def __init__(self, name: str):
        self.name = name
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress = Progress(self.name, state.max_steps, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.step(note=self.note)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.close()
