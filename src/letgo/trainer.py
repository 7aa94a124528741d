"""`LWFTrainer`: TRL's SFTTrainer that also forgets (Learning With Forgetting).

Not to be confused with Learning without Forgetting (LwF, Li & Hoiem 2016).
"""

import copy
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from letgo.card import CITATION, section
from letgo.errors import InputError
from letgo.lwf_config import LWFConfig as LWFConfig
from letgo.progress import log as letgo_log
from letgo.regularizers import penalty
from letgo.unlearning.deepspeed import check_deepspeed
from letgo.unlearning.dose import RECENT, Dose
from letgo.unlearning.figures import Figures
from letgo.unlearning.guards import below_ceiling, require_finite
from letgo.unlearning.losses import LOSSES, UNBOUNDED, Texts
from letgo.unlearning.memory import Memory
from letgo.unlearning.rescore import Rescore, check_rescoring
from letgo.unlearning.schedule import LearningStepsOnly, plan
from letgo.unlearning.steps import Steps
from letgo.unlearning.stream import MixedBatches, MixedRows, StepStream
from letgo.unlearning.texts import prepare


class LWFTrainer(SFTTrainer):
    """Fine-tunes on the learning task, and unlearns the model's own texts now and then.

    The kind of every optimizer step is fixed before training starts (`kinds`), and all its
    micro-batches are of that kind. Learning steps see the batches, the order and the learning rates
    of `SFTTrainer`. An unlearning step descends on an unlearning loss (`unlearning/losses.py`); how
    far, `unlearning/dose.py` decides in an optimizer hook.

    Args:
        forget_dataset: the base model's own texts: as `letgo elicit` writes them, with `input_ids`
            and `labels`, or in a TRL format (prompt-completion). A column `selected` says which to
            unlearn, else the top `forget_fraction` by a column `confidence`, else all. None, or
            `unlearning_interval=0`: exactly TRL's trainer.
        kwargs: as `trl.SFTTrainer`.

    Raises:
        InputError: texts without answers, of another tokenizer, or on the learning prompts.
    """

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
        self.figures, self._penalty = Figures(), None
        self.logged_step, self.learning_loss = 0, 0.0
        self.part = 1.0  # of its full strength that the step under way is to have
        self._sized: torch.optim.Optimizer | None = None
        self.rescore: Rescore | None = None
        if forget_dataset is not None and self.args.unlearning_interval:
            self._prepare_unlearning(forget_dataset)
        if self.args.regularizer != "none":
            texts: list[Any] = self.forget_dataset.to_list() if self.forget_dataset else []
            self._penalty = penalty(
                self.args.regularizer, self.args.regularizer_weight, self.model, texts,
                self._tokenizer.pad_token_id, self._sharded,
            )  # fmt: skip

    def _prepare_unlearning(self, dataset: Dataset) -> None:
        args = self.args
        if not hasattr(self.train_dataset, "__len__"):
            raise InputError(
                "--learn: a streamed data set has no length to plan unlearning steps by"
            )
        if args.unlearning_loss == "graddiff" and self.padding_free:
            raise InputError("--unlearning_loss graddiff does not work with packed learning data")
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            check_deepspeed(
                self.accelerator.state.deepspeed_plugin.deepspeed_config, args, self.model
            )
        self.forget_dataset, known, self.chosen = prepare(
            dataset, self.train_dataset, self.model, self._tokenizer, args, self._tokenize_texts
        )
        self.rescore = Rescore(self, known) if args.rescore_interval else None
        # The trainer clips only where there is a bound; the one for unlearning is always there.
        args.max_grad_norm = args.max_grad_norm or math.inf
        self.add_callback(Memory())
        self.add_callback(Steps(self))
        if self.rescore:
            check_rescoring(self._sharded)
            self.add_callback(self.rescore)

    def _tokenize_texts(self, dataset: Dataset) -> Dataset:
        plain = copy.copy(self.args)
        plain.packing, plain.assistant_only_loss = False, False  # these are about learning data
        return self._prepare_dataset(dataset, self.processing_class, plain, False, None, "forget")

    @property
    def memory(self) -> Memory:
        """Norms and losses so far; a checkpoint replaces the object."""
        callbacks = self.callback_handler.callbacks
        return next(callback for callback in callbacks if isinstance(callback, Memory))

    @property
    def unlearning_now(self) -> bool:
        """Whether the optimizer step under way is an unlearning step."""
        return bool(self.kinds) and self.kinds[min(self.state.global_step, len(self.kinds) - 1)]

    @property
    def _sharded(self) -> bool:
        split = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        return self.accelerator.distributed_type in split

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
        training = super().set_initial_training_values(args, learning)
        self.steps_per_epoch, learning_steps = training[1], training[-1]
        self.kinds = plan(
            args.unlearning_schedule, learning_steps, args.unlearning_interval, args.seed
        )
        if not any(self.kinds):
            letgo_log.warning("no unlearning step will happen: the run has %d learning steps and "
                              "--unlearning_interval is %d", learning_steps,
                              args.unlearning_interval)  # fmt: skip
        batches = learning.batch_sampler
        batches = getattr(batches, "batch_sampler", batches)  # unwrap the split over processes
        first = len(self.train_dataset)
        forget = range(first, first + len(self.forget_dataset))
        retain = range(first) if args.unlearning_loss == "graddiff" else ()
        stream = StepStream(
            self.kinds, batches, forget, forget.stop, self._train_batch_size,
            args.gradient_accumulation_steps, args.world_size, args.process_index, args.seed,
            retain,
        )  # fmt: skip
        self.forgotten_per_step = stream.forgotten_per_step
        pad = self._tokenizer.pad_token_id
        self._rows = MixedRows(self.train_dataset, self.forget_dataset, pad)
        self._collate = MixedBatches(self.data_collator, DataCollatorForLanguageModeling(pad))
        loader = DataLoader(
            self._rows, batch_sampler=stream, collate_fn=self._collate,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
        )  # fmt: skip
        # The stream is split over processes already.
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step; an unlearning step's are of what was chosen last.

        Chosen here, not in the stream: its data loader reads ahead.
        """
        if self.rescore and self.unlearning_now and self.memory.pool is not None:
            given = list(islice(epoch_iterator, num_batches))  # what the stream had planned
            texts = self.rescore.batches(len(given))
            epoch_iterator = iter([self._collate(rows or [self._rows.nothing]) for rows in texts])
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def set_initial_training_values(
        self, args: Any, dataloader: DataLoader[Any]
    ) -> tuple[Any, ...]:
        """How many steps there are, of both kinds together."""
        if self.forget_dataset is None:
            return super().set_initial_training_values(args, dataloader)
        # The stream holds the whole run: unlearning steps need not fall alike in every epoch.
        once = copy.copy(args)
        once.num_train_epochs, once.max_steps = 1, -1
        return super().set_initial_training_values(once, dataloader)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """TRL's optimizer; its unlearning steps are sized by `Dose`."""
        optimizer = super().create_optimizer(*args, **kwargs)
        bare = getattr(optimizer, "optimizer", optimizer)  # a second train() finds it wrapped
        if self.forget_dataset is not None and bare is not self._sized:
            settings = self.args
            reduce = self.accelerator.reduce if self._sharded else lambda tensor: tensor
            adaptive = settings.unlearning_schedule == "adaptive"
            self.dose = Dose(settings.unlearning_state == "separate", settings.unlearning_weight,
                             adaptive, reduce)  # fmt: skip
            self.dose.attach(bare)
            self._sized = bare
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning-rate schedule, in learning steps."""
        if self.forget_dataset is None:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(self.kinds.count(False), optimizer)
        self.lr_scheduler = LearningStepsOnly(scheduler, lambda: self.unlearning_now)
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:  # fmt: skip
        """TRL's loss and a regularizer's; in an unlearning step the unlearning loss."""
        reference, learning = inputs.pop("reference", None), inputs.pop("learning", None)
        if self.unlearning_now and model.training:
            return self._unlearning_loss(model, inputs, reference, learning, num_items_in_batch)
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self._penalty is not None and model.training:
            loss = loss + self._penalty(inputs["labels"]) / self.current_gradient_accumulation_steps
        return loss

    def _unlearning_loss(
        self, model: Any, inputs: dict[str, Any], reference: Tensor, learning: Tensor, tokens: Any
    ) -> Tensor:
        """One micro-batch's share of the unlearning loss of the step."""
        args, processes = self.args, self.accelerator.num_processes
        # TRL's fused head: log-probabilities without the logits of the whole vocabulary.
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        # Gradients are averaged over the processes, the loss is a sum over all of them.
        tokens = tokens / (processes if args.average_tokens_across_devices else 1)
        texts = Texts(
            outputs.log_probs, outputs.entropy, outputs.label_mask, learning, reference, tokens,
            self.forgotten_per_step / processes, self.model.config.get_text_config().vocab_size,
        )  # fmt: skip
        texts = texts.rows(texts.labelled.any(1))
        nll = texts.nll[~texts.learning]
        require_finite(nll.sum(), "loss of the forget batch", self.state.global_step)
        kept = texts
        if args.unlearning_loss not in UNBOUNDED:
            kept = texts.rows(below_ceiling(texts, args.unlearning_ceiling))
        loss = self.loss_weight * LOSSES[args.unlearning_loss](kept, args.unlearning_beta)
        skipped = len(texts.learning) - len(kept.learning)
        self.figures.micro_batch(loss.item() / processes, nll, skipped)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; returns its learning loss, 0 for unlearning."""
        loss = super().training_step(*args, **kwargs)
        if self.unlearning_now:
            return torch.zeros_like(loss)  # what is returned goes into the learning loss
        remedy = "lower --learning_rate"
        require_finite(loss, "learning loss", self.state.global_step, remedy)
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
            self.dose.strength = now / (self.memory.learning_norm.value or now or 1.0)
        if not self.unlearning_now:
            self.memory.learning_norm.add(min(self.norm, bound), RECENT)
        elif self.accelerator.scaler is None:  # a float16 scaler skips such a step by itself
            step = self.state.global_step
            require_finite(self.norm, "gradient norm of the forget batch", step)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log learning figures without unlearning steps, and those under their own names."""
        if self.forget_dataset is not None and "loss" in logs:
            window = self.kinds[self.logged_step : self.state.global_step]
            self.logged_step = self.state.global_step
            learning = window.count(False)
            if learning:  # the trainer has divided by steps of both kinds
                logs["loss"] *= len(window) / learning
            else:
                del logs["loss"], logs["learning_rate"]
            if window[-1]:  # an unlearning step's norm has a name of its own
                logs.pop("grad_norm", None)
            if figures := self.figures.drain():
                figures["unlearn/steps"] = self.kinds[: self.state.global_step].count(True)
                logs.update(figures)
        if self.forget_dataset is not None and "train_loss" in logs and self.kinds:
            logs["train_loss"] *= len(self.kinds) / self.kinds.count(False)
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's model card, and what was forgotten."""
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir) / "README.md"
        if self.forget_dataset is None or not self.is_world_process_zero() or not card.exists():
            return
        steps = self.kinds[: self.state.global_step].count(True)
        text = section(self.args, self.chosen.describe(), steps, self.memory.acted)
        with card.open("a", encoding="utf-8") as file:
            file.write(text)
