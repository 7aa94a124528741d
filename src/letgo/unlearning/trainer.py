"""`LWFTrainer`: TRL's SFTTrainer that also forgets (Learning With Forgetting).

Not to be confused with Learning without Forgetting (LwF, Li & Hoiem 2016).
"""

import copy
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from letgo.errors import InputError
from letgo.unlearning.callback import UnlearningCallback
from letgo.unlearning.checks import check_deepspeed, check_settings
from letgo.unlearning.config import LWFConfig as LWFConfig
from letgo.unlearning.guards import LEARNING_REMEDY, below_ceiling, check_norm, require_finite
from letgo.unlearning.losses import LOSSES, UNBOUNDED, Texts
from letgo.unlearning.metrics import Metrics, learning_figures
from letgo.unlearning.model_card import CITATION, section
from letgo.unlearning.regularizers import penalty, shares
from letgo.unlearning.rescore import Rescore, rescoring
from letgo.unlearning.schedule import of_learning_steps, plan
from letgo.unlearning.step_size import RECENT, StepSize
from letgo.unlearning.stream import MixedBatches, MixedRows, labels_in, mixed_loader, step_stream
from letgo.unlearning.texts import prepare
from letgo.unlearning.tracker import Tracker


class LWFTrainer(SFTTrainer):
    """Fine-tunes on the learning task, and unlearns the model's own texts now and then.

    The kind of every optimizer step is fixed before training starts (`kinds`), and all its
    micro-batches are of that kind. Learning steps see the batches, the order and the learning rates
    of `SFTTrainer`. An unlearning step descends on an unlearning loss (`unlearning/losses.py`); how
    far, `unlearning/dose.py` decides in an optimizer hook.

    Args:
        forget_dataset: the base model's own texts: as `letgo elicit` writes them, with `input_ids`
            and `labels`, or in a TRL format (prompt-completion). A column `selected` says which to
            unlearn, else the top `forget_fraction` by a column `confidence`, else all; re-scoring
            chooses among those selected, or where there are such columns among those `allowed`,
            and always takes those `forced`. None, or `unlearning_interval=0`: exactly TRL's
            trainer.
        kwargs: as `trl.SFTTrainer`.

    Raises:
        InputError: texts without answers, of another tokenizer, or on the learning prompts;
            settings that do not work with unlearning.
    """

    completion_only_loss: bool
    _tag_names = ["trl", "lwf"]
    _name = "LWF"
    _paper = {
        "title": "Graceful Forgetting in Generative Language Models",
        "id": "2505.19715",
        "citation": CITATION,
    }

    def __init__(self, *args: Any, forget_dataset: Dataset | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.kinds: list[bool] = []  # of every optimizer step, True for unlearning
        self.forget_dataset: Dataset | None = None
        self.metrics, self._penalty = Metrics(), None
        self.logged_step, self.learning_loss = 0, 0.0
        self.part = 1.0  # of its full strength that the step under way is to have
        self._sized: torch.optim.Optimizer | None = None
        self.rescore: Rescore | None = None
        if forget_dataset is not None and self.args.unlearning_interval:
            self._prepare_unlearning(forget_dataset)
        if self.args.regularizer != "none":
            texts: list[Any] = self.forget_dataset.to_list() if self.forget_dataset else []
            self._penalty = penalty(
                self.args.regularizer,
                self.args.regularizer_weight,
                self.model,
                texts,
                self._tokenizer.pad_token_id,
                self._sharded,
                self.padding_free or self.args.packing,
            )

    def _prepare_unlearning(self, dataset: Dataset) -> None:
        args = self.args
        check_settings(args, self.train_dataset, self.padding_free)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            check_deepspeed(
                self.accelerator.state.deepspeed_plugin.deepspeed_config, args, self.model
            )
        self.forget_dataset, known, self.chosen = prepare(
            dataset, self.train_dataset, self.model, self._tokenizer, args, self._tokenize_texts
        )
        self.rescore = rescoring(self, known, self._sharded)
        # The trainer clips only where there is a bound; the one for unlearning is always there.
        args.max_grad_norm = args.max_grad_norm or math.inf
        self.add_callback(Tracker())
        self.add_callback(UnlearningCallback(self))
        if self.rescore:
            self.add_callback(self.rescore)

    def _tokenize_texts(self, dataset: Dataset) -> Dataset:
        """Texts in a TRL format as rows of tokens; prompts are masked, whatever is learned."""
        plain = copy.copy(self.args)
        plain.packing = plain.assistant_only_loss = plain.shuffle_dataset = False
        learning, self.completion_only_loss = self.completion_only_loss, True
        given = self.processing_class
        try:
            return self._prepare_dataset(dataset, given, plain, False, None, "forget")
        finally:
            self.completion_only_loss = learning

    @property
    def tracker(self) -> Tracker:
        """Norms and losses so far; a checkpoint replaces the object."""
        callbacks = self.callback_handler.callbacks
        return next(callback for callback in callbacks if isinstance(callback, Tracker))

    @property
    def unlearning_now(self) -> bool:
        """Whether the optimizer step under way is an unlearning step."""
        return bool(self.kinds) and self.kinds[min(self.state.global_step, len(self.kinds) - 1)]

    @property
    def _sharded(self) -> bool:
        split = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        return self.accelerator.distributed_type in split

    @property
    def _texts_in_step(self) -> int:
        """How many texts the unlearning step under way takes, in all processes together."""
        pool = self.tracker.pool if self.rescore else None
        known = self.forgotten_per_step if pool is None else len(pool)
        return min(self.forgotten_per_step, max(1, known))  # a share of no texts is one of nothing

    def bound(self) -> float:
        """The norm to which the gradient of the step under way is clipped."""
        if self.unlearning_now:
            return self.loss_weight * self.args.unlearning_max_grad_norm
        return self.args.max_grad_norm

    @property
    def loss_weight(self) -> float:
        """What the unlearning loss is multiplied by where its rate is a weight on it."""
        weight = self.args.unlearning_weight
        if weight is None or self.args.unlearning_state == "separate":
            return 1.0
        return self.part * weight

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stream of the whole run, learning and unlearning steps in their order."""
        learning = super().get_train_dataloader()
        if self.forget_dataset is None:
            return learning
        args = self.args
        if not len(learning):
            raise InputError("--learn: with --dataloader_drop_last no whole batch is left")
        training = super().set_initial_training_values(args, learning)
        self.epochs, self.steps_per_epoch, _, self.learning_samples, *_, learning_steps = training
        self.kinds = plan(
            args.unlearning_schedule, learning_steps, args.unlearning_interval, args.seed
        )
        pad = self._tokenizer.pad_token_id
        # As the trainer has made them: without columns that its collator does not take.
        self._rows = MixedRows(learning.dataset, self.forget_dataset, pad)
        self._collate = MixedBatches(learning.collate_fn, DataCollatorForLanguageModeling(pad))
        stream = step_stream(self.kinds, learning, self._rows, self._train_batch_size, args)
        self.forgotten_per_step = stream.forgotten_per_step
        return mixed_loader(self._rows, stream, self._collate, self.accelerator.device, args)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step; an unlearning step's are of what was chosen last.

        Chosen here, not in the stream: its data loader reads ahead.
        """
        if self.rescore and self.unlearning_now and self.tracker.pool is not None:
            given = list(islice(epoch_iterator, num_batches))  # what the stream had planned
            texts = self.rescore.batches(len(given))
            epoch_iterator = iter([self._collate(rows or [self._rows.nothing]) for rows in texts])
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.unlearning_now and tokens is None:  # a model without loss arguments
            tokens = labels_in(batches).to(device)
            over_all = self.args.average_tokens_across_devices
            tokens = self.accelerator.reduce(tokens) if over_all else tokens
        if self._penalty is not None and not self.unlearning_now:
            self.shares = shares(self.args.regularizer, batches, self.accelerator.reduce)
        return batches, tokens

    def set_initial_training_values(
        self, args: Any, dataloader: DataLoader[Any]
    ) -> tuple[Any, ...]:
        """How many steps there are, of both kinds together."""
        if self.forget_dataset is None:
            return super().set_initial_training_values(args, dataloader)
        # The stream holds the whole run: unlearning steps need not fall alike in every epoch.
        once = copy.copy(args)
        once.num_train_epochs, once.max_steps = 1, -1
        values = list(super().set_initial_training_values(once, dataloader))
        values[3] = self.learning_samples  # what samples per second are taken from
        return tuple(values)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """TRL's optimizer; its unlearning steps are sized by `StepSize`."""
        optimizer = super().create_optimizer(*args, **kwargs)
        bare = getattr(optimizer, "optimizer", optimizer)  # a second train() finds it wrapped
        if self.forget_dataset is not None and bare is not self._sized:
            settings = self.args
            reduce = self.accelerator.reduce if self._sharded else lambda tensor: tensor
            adaptive = settings.unlearning_schedule == "adaptive"
            self.step_size = StepSize(
                settings.unlearning_state == "separate",
                settings.unlearning_weight,
                adaptive,
                reduce,
            )
            self.step_size.attach(bare)
            self._sized = bare
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning-rate schedule, in learning steps."""
        if self.forget_dataset is None:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(self.kinds.count(False), optimizer)
        self.lr_scheduler = of_learning_steps(scheduler, lambda: self.unlearning_now)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """TRL's loss and a regularizer's; in an unlearning step the unlearning loss."""
        reference, learning = inputs.pop("reference", None), inputs.pop("learning", None)
        unlearning = self.unlearning_now and model.training
        self.loss_is_scaled_for_ga = True if unlearning else None  # a share of the step's loss
        if unlearning:
            return self._unlearning_loss(model, inputs, reference, learning, num_items_in_batch)
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self._penalty is not None and model.training:
            loss = loss + self._penalty(inputs["labels"]) / self.shares
        return loss

    def _unlearning_loss(
        self, model: Any, inputs: dict[str, Any], reference: Tensor, learning: Tensor, tokens: Any
    ) -> Tensor:
        """One micro-batch's share of the unlearning loss of the step."""
        args, processes = self.args, self.accelerator.num_processes
        # TRL's fused head: log-probabilities without the logits of the whole vocabulary.
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        # Gradients are averaged over the processes, the loss is a sum over all of them.
        tokens = tokens.clamp(min=1) / (processes if args.average_tokens_across_devices else 1)
        texts = Texts(
            outputs.log_probs,
            outputs.entropy,
            outputs.label_mask,
            learning,
            reference,
            tokens,
            self._texts_in_step / processes,
            self.model.config.get_text_config().vocab_size,
        )
        texts = texts.rows(texts.labelled.any(1))
        nll = texts.nll[~texts.learning]
        require_finite(nll.sum(), "loss of the forget batch", self.state.global_step)
        kept = texts
        if args.unlearning_loss not in UNBOUNDED:
            kept = texts.rows(below_ceiling(texts, args.unlearning_ceiling))
        loss = self.loss_weight * LOSSES[args.unlearning_loss](kept, args.unlearning_beta)
        skipped = len(texts.learning) - len(kept.learning)
        self.metrics.micro_batch(loss.item() / processes, nll, skipped)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; returns its learning loss, 0 for unlearning."""
        loss = super().training_step(*args, **kwargs)
        if self.unlearning_now:
            return torch.zeros_like(loss)  # what is returned goes into the learning loss
        require_finite(loss, "learning loss", self.state.global_step, LEARNING_REMEDY)
        self.learning_loss += float(loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip to `max_grad_norm`; an unlearning step has a bound of its own.

        Clipping a second time in a callback would unscale a float16 gradient twice.
        """
        if self.forget_dataset is None:
            return super()._clip_grad_norm(model)
        bound = self.bound()
        # DeepSpeed has clipped and stepped by now, and only says what the norm was.
        norm = self.accelerator.clip_grad_norm_(model.parameters(), bound)
        self.norm = 0.0 if norm is None else float(norm)
        self.clipped = self.norm > bound
        if self.unlearning_now and self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # Its optimizer sees one group of weights at a time, and no norm of them all.
            now = min(self.norm, bound)
            self.step_size.strength = now / (self.tracker.learning_norm.value or now or 1.0)
        if self.accelerator.mixed_precision != "fp16":  # its scaler skips such a step by itself
            check_norm(self.norm, self.unlearning_now, self.state.global_step)
        if not self.unlearning_now:
            self.tracker.learning_norm.add(min(self.norm, bound), RECENT)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log learning figures without unlearning steps, and those under their own names."""
        if self.forget_dataset is not None and "loss" in logs:
            done = self.kinds[: self.state.global_step]
            learning_figures(logs, done[self.logged_step :])
            self.logged_step = len(done)
            if figures := self.metrics.drain():
                logs |= {**figures, "unlearn/steps": done.count(True)}
        super().log(logs, start_time)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The result of training; its loss is the mean over learning steps."""
        taken = self.kinds[self._initial_global_step : self.state.global_step]
        if self.forget_dataset is not None and False in taken:
            self._total_loss_scalar *= len(taken) / taken.count(False)
            self._tr_loss *= len(taken) / taken.count(False)
        return super()._finalize_training(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card, and what was forgotten."""
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir) / "README.md"
        if self.forget_dataset is None or not self.is_world_process_zero() or not card.exists():
            return
        steps = self.kinds[: self.state.global_step].count(True)
        text = section(self.args, self.chosen.describe(), steps, self.tracker.acted)
        with card.open("a", encoding="utf-8") as file:
            file.write(text)
