"""`LWFTrainer`: TRL's SFTTrainer that also unlearns and keeps (Learning With Forgetting).

Not to be confused with Learning without Forgetting (LwF, Li & Hoiem 2016).
"""

import copy
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from trl import SFTTrainer

from letgo.data.habits import Habit, Predicate, predicted
from letgo.errors import InputError
from letgo.unlearning import totals
from letgo.unlearning.callback import UnlearningCallback
from letgo.unlearning.checks import check_settings
from letgo.unlearning.config import LWFConfig as LWFConfig
from letgo.unlearning.guards import require_finite
from letgo.unlearning.keep import prepare_keep
from letgo.unlearning.metrics import Metrics
from letgo.unlearning.model_card import PAPER, append_sections
from letgo.unlearning.regularizers import penalty, penalty_divisor
from letgo.unlearning.rescore import Rescore, prepare_unlearning
from letgo.unlearning.schedule import Plan, Step, for_learning_steps, run_plan
from letgo.unlearning.step_losses import keep_share, tokens_of_process, unlearning_share
from letgo.unlearning.step_size import DECAY, StepSize
from letgo.unlearning.stream import predicted_tokens, run_loader
from letgo.unlearning.tracker import Tracker
from letgo.unlearning.weights import WEIGHT, use_weights, weighted

Inputs = dict[str, Any]  # of a model, for one micro-batch
# Not for the model.
TEXT_COLUMNS = ("reference", "learning", "base_log_probs", "top_ids", "top_log_probs", WEIGHT)


class LWFTrainer(SFTTrainer):
    """Fine-tunes on the learning task; in some steps it unlearns texts, in some it keeps others.

    `plan` fixes before training what each optimizer step does. Learning steps see the batches, the
    order and the learning rates of `SFTTrainer`. An unlearning step descends on an unlearning loss
    (`losses.py`); an optimizer hook sets the length of its update (`step_size.py`). A keep step is
    an ordinary step on the divergence from the base model (`keep.py`).

    Args:
        forget_dataset: the texts, as `letgo elicit` writes them, with `input_ids` and `labels`, or
            in a TRL format; `texts.choose` describes the columns that decide which of them are
            unlearned. None, or `unlearning_interval=0`: no unlearning steps.
        keep_dataset: the texts to keep, in the same forms, as the base model writes or reads them.
            None, or `keep_share=0`: no keep steps. With neither, exactly TRL's trainer.
        habit: from the tokens and the text of an answer to the parts of it that are unlearned,
            (first character, character behind the last) each. Several habits by the names that the
            column `habit` of the texts has. None: whole answers.
        args, kwargs: as `trl.SFTTrainer`; a `weight` in `train_dataset` scales an example's loss.

    Raises:
        InputError: unsuitable texts, or settings that do not work with unlearning.
    """

    completion_only_loss: bool
    _tag_names = ["trl", "lwf"]
    _name = "LWF"
    _paper = PAPER

    def __init__(
        self,
        *args: Any,
        forget_dataset: Dataset | None = None,
        keep_dataset: Dataset | None = None,
        habit: Predicate | Mapping[str, Habit] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.habits = {"predicate": predicted(habit)} if callable(habit) else dict(habit or {})
        self.plan, self.metrics = Plan([]), Metrics()
        self.forget_dataset: Dataset | None = None
        self.keep_dataset: Dataset | None = None
        self.rescore: Rescore | None = None
        self.step_loss = 0.0  # of a learning step, so far
        self._saved_totals: dict[str, Any] | None = None  # of the checkpoint to resume from
        self._is_resumed = False  # with its totals
        self.step_strength = 1.0  # fraction of the full strength used in the current step
        self._hooked_optimizer: Optimizer | None = None
        forget_dataset = use_weights(self, kwargs.get("train_dataset"), forget_dataset)
        if forget_dataset is not None and self.args.unlearning_interval:
            prepare_unlearning(self, forget_dataset)
        if keep_dataset is not None and self.args.keep_share:
            keep = (keep_dataset, self.model, self._tokenizer, self.args, self._tokenize_texts)
            self.keep_dataset = prepare_keep(*keep)
        if self.has_plan:
            check_settings(self.args, self.train_dataset, self.padding_free)
            # The trainer clips only if there is a bound, and unlearning steps always have one.
            self.args.max_grad_norm = self.args.max_grad_norm or math.inf
            self.add_callback(Tracker())
            self.add_callback(UnlearningCallback(self))
            if self.rescore:
                self.add_callback(self.rescore)
        texts: list[Inputs] = list(self.forget_dataset or [])
        packed, tokenizer = self.padding_free or self.args.packing, self._tokenizer
        self._penalty = penalty(self.args, self.model, texts, tokenizer, self._sharded, packed)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, WEIGHT])]  # type: ignore[has-type]

    @property
    def has_plan(self) -> bool:
        """Whether there are steps besides the learning steps."""
        return self.forget_dataset is not None or self.keep_dataset is not None

    def _tokenize_texts(self, dataset: Dataset) -> Dataset:
        """Tokenize texts in a TRL format, with masked prompts whatever the learning data mask."""
        plain = copy.copy(self.args)
        plain.packing = plain.assistant_only_loss = plain.shuffle_dataset = False
        saved, processor = self.completion_only_loss, self.processing_class
        self.completion_only_loss = True
        try:
            return self._prepare_dataset(dataset, processor, plain, False, None, "forget")
        finally:
            self.completion_only_loss = saved

    @property
    def tracker(self) -> Tracker:
        """State carried from step to step; loading a checkpoint may replace the object."""
        callbacks = self.callback_handler.callbacks
        return next(callback for callback in callbacks if isinstance(callback, Tracker))

    @property
    def step_now(self) -> Step:
        """What the current optimizer step does."""
        return self.plan.step(self.state.global_step)

    @property
    def loss_weight(self) -> float:
        """Factor of the unlearning loss; 1 unless `unlearning_rate` acts as a weight on it."""
        weight = self.args.unlearning_weight
        if weight is None or self.args.unlearning_state == "separate":
            return 1.0
        return self.step_strength * weight

    def max_norm(self) -> float:
        """The norm to which the gradient of the current step is clipped."""
        if self.step_now == Step.UNLEARN:
            return self.loss_weight * self.args.unlearning_max_grad_norm
        return self.args.max_grad_norm

    @property
    def _sharded(self) -> bool:
        sharding = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        return self.accelerator.distributed_type in sharding

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of the whole run, all steps in the planned order."""
        learning = super().get_train_dataloader()
        if not self.has_plan:
            return learning
        args, pad, device = self.args, self._tokenizer.pad_token_id, self.accelerator.device
        if not len(learning):
            raise InputError("--dataloader_drop_last: no whole batch is left; leave it out")
        training = super().set_initial_training_values(args, learning)
        self.epochs, steps_per_epoch, _, self.learning_samples, *_, count = training
        interval = args.unlearning_interval if self.forget_dataset is not None else 0
        share = args.keep_share if self.keep_dataset is not None else 0.0
        schedule, seed = args.unlearning_schedule, args.seed
        self.plan = run_plan(schedule, count, steps_per_epoch, interval, share, seed)
        texts, batch = (self.forget_dataset, self.keep_dataset), self._train_batch_size
        loader, self._collate, self.texts_per_step = run_loader(
            self.plan, learning, *texts, pad, batch, device, args
        )
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | None]:
        """The micro-batches of a step; in an unlearning step, of the texts re-scoring chose last.

        They are chosen here and not in the stream because its data loader reads ahead.
        """
        if self.rescore and self.step_now == Step.UNLEARN and self.tracker.pool is not None:
            planned = list(islice(epoch_iterator, num_batches))
            epoch_iterator = map(self._collate, self.rescore.batches(len(planned)))
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.step_now != Step.LEARN and tokens is None:  # the model takes no loss arguments
            tokens = predicted_tokens(batches).to(device)
            if self.args.average_tokens_across_devices:
                tokens = self.accelerator.reduce(tokens)
        if self._penalty is not None and self.step_now == Step.LEARN:
            reduce = self.accelerator.reduce
            self._penalty_divisor = penalty_divisor(self.args.regularizer, batches, reduce)
        return batches, tokens

    def set_initial_training_values(
        self, args: LWFConfig, dataloader: DataLoader[Any]
    ) -> tuple[Any, ...]:
        """The numbers of steps and samples of the run, other steps than learning included."""
        if not self.has_plan:
            return super().set_initial_training_values(args, dataloader)
        # The loader holds the whole run: epochs may differ in their number of unlearning steps.
        once = copy.copy(args)
        once.num_train_epochs, once.max_steps = 1, -1
        values = list(super().set_initial_training_values(once, dataloader))
        values[3] = self.learning_samples  # for the logged samples per second
        return tuple(values)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """TRL's optimizer, with hooks that set the length of unlearning updates."""
        optimizer = super().create_optimizer(model)
        bare = getattr(optimizer, "optimizer", optimizer)  # a second train() finds it wrapped
        if self.has_plan and bare is not self._hooked_optimizer:
            reduce = self.accelerator.reduce if self._sharded else lambda tensor: tensor
            self.step_size = StepSize(self.args, reduce)
            self.step_size.attach(bare)
            self._hooked_optimizer = bare
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """TRL's learning-rate schedule over the learning steps alone."""
        if not self.has_plan:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(self.plan.learned(len(self.plan)), optimizer)
        self.lr_scheduler = for_learning_steps(scheduler, lambda: self.step_now == Step.LEARN)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """In a learning step TRL's loss and the penalty, else the unlearning or keep loss."""
        texts = {name: inputs.pop(name, None) for name in TEXT_COLUMNS}
        step = self.step_now if model.training else Step.LEARN
        # The loss of another step than learning is the micro-batch's share already.
        self.loss_is_scaled_for_ga = None if step == Step.LEARN else True
        if step != Step.LEARN:
            return self._step_loss(step, model, inputs, texts, num_items_in_batch)
        scaled = weighted(model, texts[WEIGHT] if model.training else None)
        loss = super().compute_loss(scaled, inputs, return_outputs, num_items_in_batch)
        if self._penalty is not None and model.training:
            loss = loss + self._penalty(inputs["labels"]) / self._penalty_divisor
        return loss

    def _step_loss(
        self, step: Step, model: nn.Module, inputs: Inputs, texts: Inputs, tokens: Any
    ) -> Tensor:
        """One micro-batch's share of the loss of an unlearning or keep step."""
        done, processes = self.state.global_step, self.accelerator.num_processes
        tokens = tokens_of_process(tokens, self.args, processes)
        if step == Step.KEEP:
            tops = texts["top_ids"], texts["top_log_probs"]
            loss = keep_share(model, inputs, tops, tokens, self.args, done)
            self.metrics.keep_loss += loss.item() / processes
            return loss
        count = self.rescore.texts_in_step if self.rescore else self.texts_per_step
        vocabulary = self.model.config.get_text_config().vocab_size
        shared = (texts["learning"], texts["reference"], tokens, count / processes, vocabulary)
        of_texts = texts[WEIGHT], texts["base_log_probs"]
        loss, nll, skipped = unlearning_share(model, inputs, shared, self.args, done, *of_texts)
        loss = self.loss_weight * loss
        self.metrics.micro_batch(loss.item() / processes, nll, skipped)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Backpropagate one micro-batch; its learning loss, or 0 in any other step."""
        loss = super().training_step(*args, **kwargs)
        if self.step_now != Step.LEARN:
            return torch.zeros_like(loss)  # the trainer adds what is returned to the learning loss
        require_finite(loss, "learning loss", self.state.global_step, False)
        self.step_loss += float(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | None:
        """Clip to `max_norm()`; a second clipping would unscale float16 gradients twice."""
        if not self.has_plan:
            return super()._clip_grad_norm(model)
        bound = self.max_norm()
        # DeepSpeed has already clipped and updated, and only reports the norm.
        norm = self.accelerator.clip_grad_norm_(model.parameters(), bound)
        self.grad_norm = 0.0 if norm is None else float(norm)
        self.clipped, clipped_norm = self.grad_norm > bound, min(self.grad_norm, bound)
        if (
            self.step_now == Step.UNLEARN
            and self.accelerator.distributed_type == DistributedType.DEEPSPEED
        ):
            # Its optimizer gets one parameter group at a time, and never the norm of all.
            recent = self.tracker.learning_norm.value or clipped_norm or 1.0
            self.step_size.strength = clipped_norm / recent
        # A gradient may overflow although the loss does not; fp16's scaler skips such a step.
        if self.accelerator.mixed_precision != "fp16":
            name = f"gradient norm of {self.step_now.batch}"
            require_finite(
                self.grad_norm, name, self.state.global_step, self.step_now == Step.UNLEARN
            )
        if self.step_now == Step.LEARN:
            self.tracker.learning_norm.add(clipped_norm, DECAY)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the learning metrics of the learning steps only, and the unlearning metrics."""
        if self.has_plan and "loss" in logs:
            self.metrics.complete(logs, self.plan, self.state.global_step)
        if self.has_plan and "eval_loss" in logs:
            logs = logs | self.plan.others(self.state.global_step)
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.state.stateful_callbacks[totals.NAME] = totals.totals(self)
        super()._save_checkpoint(*args, **kwargs)

    def _load_callback_state(self) -> None:
        self._saved_totals = self.state.stateful_callbacks.pop(totals.NAME, None)
        super()._load_callback_state()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """An epoch of training; the first of a resumed run goes on with the sums of its log."""
        if self._saved_totals:
            totals.restore(self, self._saved_totals)
            self._saved_totals, self._is_resumed = None, True
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The result of training; its loss is the mean over all learning steps."""
        totals.divide_by_learning_steps(self, self._is_resumed)
        return super()._finalize_training(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card and sections on what was unlearned and what was kept."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            append_sections(self)
