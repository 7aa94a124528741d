"""Fine-tuning that can be interrupted and resumed: shared by the stages probe and train."""

import copy
import json
import shutil
import time
import zipfile
from pathlib import Path

import transformers as hf
from datasets import Dataset
from peft import PeftConfig
from safetensors import SafetensorError, safe_open
from trl import get_peft_config

from letgo.data.records import Record
from letgo.data.tokens import example_ids, prompt_ids, training_row
from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.models.inference import Row as TokenRow
from letgo.progress import Progress, log
from letgo.run.base import load_base
from letgo.run.digests import differences, digests
from letgo.run.folder import TRAIN_LOG, Row, read_json, write_json
from letgo.run.inputs import Run, check_batch
from letgo.stages.early_stopping import EarlyStopping
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.trainer import LWFTrainer
from letgo.unlearning.weights import WEIGHT

SFT = "fine-tune (SFT)"  # the name of plain fine-tuning
DIGESTS = "digests.json"  # of a checkpoint's files; written after them


def learning_rows(
    lm: LanguageModel, records: list[Record], flag: str = "--learn"
) -> list[TokenRow]:
    """Token ids and labels of learning examples.

    Examples longer than the context are left out and counted: cut short, they would teach an
    answer without its end.

    Raises:
        InputError: no example fits.
    """
    ids = [example_ids(lm.tokenizer, r.prompt, r.completion or "") for r in records]
    evaluated = [prompt_ids(lm.tokenizer, r.prompt) for r in records]
    differing = sum(p != prompt for p, (prompt, _) in zip(evaluated, ids, strict=True))
    if differing > len(records) / 2:
        log.warning(
            "the chat template renders a prompt differently when its answer follows: the model "
            "is trained on other prompts than it is evaluated on"
        )
    rows: list[TokenRow] = [training_row(*pair) for pair in ids]
    of = "learning" if flag == "--learn" else "validation"
    if of == "learning" and any(record.weight != 1 for record in records):
        rows = [{**row, WEIGHT: r.weight} for row, r in zip(rows, records, strict=True)]  # type: ignore[dict-item]
    long = [r for r, row in zip(records, rows, strict=True) if len(row["input_ids"]) > lm.limit]
    if long:
        message = (
            f"{len(long)} of {len(records)} {of} examples are longer than {lm.limit} tokens "
            f"and are left out (first: {long[0].where}); "
            f"raise --max_length up to the model's context"
        )
        if len(long) == len(records):
            raise InputError(f"{flag}: {message}")
        log.warning("%s", message)
    return [row for row in rows if len(row["input_ids"]) <= lm.limit]


def fit(
    run: Run,
    scratch: Path,
    target: Path,
    name: str,
    forget: list[Row] | None = None,
    keep: list[Row] | None = None,
    adapter: PeftConfig | None = None,
) -> None:
    """Fine-tune the base model and save it; resumes from the last whole checkpoint in `scratch`.

    Args:
        scratch: gets the checkpoints and `train_log.jsonl`.
        target: gets the model or adapter, its tokenizer and model card.
        forget, keep: the texts to unlearn and to keep, as `LWFTrainer` takes them; None for none.
        adapter: replaces the one of the settings.

    Raises:
        InputError: too few examples, or settings that the trainer refuses.
    """
    arguments = copy.deepcopy(run.training)
    arguments.output_dir = str(scratch / "checkpoints")
    if name == SFT:
        arguments.regularizer = "none"
    arguments.save_only_model = False  # without the optimizer's state a run cannot be resumed
    if arguments.completion_only_loss is False:
        raise InputError("--completion_only_loss false: letgo learns completions only")
    adapter = adapter or get_peft_config(run.config.adapter)
    trainer = _trainer(run, arguments, name, {"forget": forget, "keep": keep}, adapter)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(arguments.output_dir)))
    _log_best(trainer, name)
    _save(trainer, target, run.folder.resolve().name)
    with (scratch / TRAIN_LOG.name).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in trainer.state.log_history)


def _trainer(
    run: Run,
    arguments: LWFConfig,
    name: str,
    texts: dict[str, list[Row] | None],
    adapter: PeftConfig | None,
) -> LWFTrainer:
    lm = load_base(run.config)
    rows = learning_rows(lm, run.learn)
    check_batch(len(rows), arguments.per_device_train_batch_size)
    callbacks = [_TimedCheckpoint(60 * run.settings.checkpoint_minutes), _ShowProgress(name)]
    evaluated: list[TokenRow] = []
    if arguments.eval_strategy != "no":
        evaluated = learning_rows(lm, run.validation, "--learn_validation")
        if patience := run.settings.early_stopping_patience:
            callbacks.append(EarlyStopping(patience))
    try:
        trainer = LWFTrainer(
            model=lm.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(evaluated) if evaluated else None,
            **{f"{use}_dataset": Dataset.from_list(r) for use, r in texts.items() if r},
            habit={habit.name: habit for habit in run.habits.values()},
            processing_class=lm.tokenizer,
            peft_config=adapter,
            callbacks=callbacks,
        )
    except InputError:
        raise
    except ValueError as error:  # TRL and PEFT refuse settings that do not go together
        raise InputError(f"{name}: {error}") from error
    for callback in (hf.PrinterCallback, hf.ProgressCallback):  # letgo shows its own progress
        trainer.remove_callback(callback)
    return trainer


def _log_best(trainer: LWFTrainer, name: str) -> None:
    """Say which step's model was loaded at the end (`--load_best_model_at_end`)."""
    state, arguments = trainer.state, trainer.args
    if arguments.load_best_model_at_end and state.best_model_checkpoint:
        step, last, metric = state.best_global_step, state.global_step, state.best_metric
        what = f"{arguments.metric_for_best_model} {metric:.4f} on the validation set"
        log.info("%s: the model after step %d of %d is the best: %s", name, step, last, what)


def _save(trainer: LWFTrainer, target: Path, name: str) -> None:
    """Write the model or adapter, the tokenizer and the model card."""
    config = trainer.model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        # TRL turns on the logits of the experts' routers for training. A model saved so cannot
        # generate with a cache (its auxiliary loss takes the mask's length for the step's).
        config.output_router_logits = False
    trainer.save_model(str(target))
    (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.yaml has the settings
    trainer.create_model_card(model_name=name)
    card = Path(trainer.args.output_dir) / "README.md"
    if card.exists():
        card.replace(target / "README.md")


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; incomplete and damaged ones are removed.

    Its state is written after its other files, and its digests after its state. One without the
    checkpoint of the best model so far is of no use: that model would be lost.
    """
    whole: list[tuple[int, Path, str]] = []
    for path in folder.glob("checkpoint-*"):
        if not (path / "trainer_state.json").exists():  # its writing was interrupted
            shutil.rmtree(path)
            continue
        try:
            state = json.loads((path / "trainer_state.json").read_text())
            step, best = int(state["global_step"]), state.get("best_model_checkpoint")
            recorded = read_json(path / DIGESTS)
            names = {file.split("/")[0] for file in recorded}
            damaged = [file for name in names for file in differences(path, name, recorded)]
            damaged = damaged if recorded else _cut_short(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            damaged = ["trainer_state.json"]
        if damaged:
            log.warning(
                "%s is damaged (%s): training goes on from the checkpoint before it, or begins "
                "anew",
                path,
                damaged[0],
            )
            shutil.rmtree(path)
            continue
        whole.append((step, path, Path(best or path).name))
    names = {path.name for _, path, _ in whole}
    useful = [(step, path) for step, path, best in whole if best in names]
    return str(max(useful)[1]) if useful else None


def _cut_short(checkpoint: Path) -> list[str]:
    """The files of a checkpoint without digests that cannot be opened.

    An earlier version wrote no digests, and a process may be killed before it has written them.
    """
    names = []
    for file in sorted(checkpoint.iterdir()):
        if file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
            names.append(file.name)
        elif file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt"):
                    pass
            except (SafetensorError, OSError):
                names.append(file.name)
    return names


class _TimedCheckpoint(hf.TrainerCallback):
    """Saves a checkpoint at the end of a step once so many seconds have passed.

    A resumed training finds its best model where the checkpoints are now.

    Training stops if the folder for them is deleted: there would be no place for its results.
    """

    def __init__(self, seconds: float):
        self.seconds, self.last = seconds, time.monotonic()

    def on_train_begin(
        self, arguments: hf.TrainingArguments, state: hf.TrainerState, *_: object, **__: object
    ) -> None:
        best = Path(arguments.output_dir, f"checkpoint-{state.best_global_step}")
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)  # the folder may have been moved

    def on_step_end(
        self,
        arguments: hf.TrainingArguments,
        state: hf.TrainerState,
        control: hf.TrainerControl,
        **kwargs: object,
    ) -> None:
        scratch = Path(arguments.output_dir).parent
        if not scratch.exists():
            raise InputError(f"{scratch} was deleted while letgo worked in it; start again")
        if time.monotonic() - self.last >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(
        self, arguments: hf.TrainingArguments, state: hf.TrainerState, *_: object, **__: object
    ) -> None:
        folder = Path(arguments.output_dir, f"checkpoint-{state.global_step}")
        names = [file.name for file in folder.iterdir() if file.name != DIGESTS]
        write_json(folder / DIGESTS, digests(folder, names))
        self.last = time.monotonic()


class _ShowProgress(hf.TrainerCallback):
    """The trainer's steps in letgo's progress bar."""

    def __init__(self, name: str):
        self.name, self.note = name, ""

    def on_train_begin(self, _: object, state: hf.TrainerState, *__: object, **kw: object) -> None:
        self.progress = Progress(self.name, state.max_steps, state.global_step)

    def on_log(self, *_: object, logs: dict[str, float], **kwargs: object) -> None:
        for name in ("loss", "eval_loss"):
            if name in logs:
                self.note = f"{name} {logs[name]:.3f}"

    def on_step_end(self, *_: object, **kwargs: object) -> None:
        self.progress.step(note=self.note)

    def on_train_end(self, *_: object, **kwargs: object) -> None:
        self.progress.close()
