"""`LWFTrainer`: TRL's SFTTrainer with periodic unlearning steps (Learning With Forgetting).

Not to be confused with Learning without Forgetting (LwF, Li & Hoiem 2016).
"""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from letgo.errors import InputError
from letgo.inference import Batch, example_losses
from letgo.models import bf16_is_fast
from letgo.progress import log as letgo_log
from letgo.unlearning.guards import below_ceiling, require_finite
from letgo.unlearning.schedule import LearningStepsOnly, MixedRows, StepStream, periodic

CITATION = """\
@inproceedings{jiang2025graceful,
    title     = {{Graceful Forgetting in Generative Language Models}},
    author    = {Jiang, Chunyang and others},
    year      = 2025,
    booktitle = {Proceedings of EMNLP 2025},
    eprint    = {2505.19715},
    archivePrefix = {arXiv}
}"""


def setting(default: Any, help: str) -> Any:
    """A dataclass field that is a flag with a help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class LWFConfig(SFTConfig):
    """TRL's `SFTConfig` and the settings of Learning With Forgetting (arXiv 2505.19715).

    Without an accelerator it sets `use_cpu`, and `bf16` only where the processor computes in it.

    Raises:
        InputError: a value outside its range.
    """

    unlearning_interval: int = setting(
        10, "N_u: one unlearning step follows every N_u learning steps; 0 turns unlearning off."
    )
    unlearning_rate: float | None = setting(
        None, "Learning rate of gradient ascent; a tenth of --learning_rate if not given."
    )
    unlearning_ceiling: float = setting(
        4.0, "Guard: texts whose NLL (nats per token) has reached it are not pushed further."
    )
    unlearning_max_grad_norm: float = setting(
        1.0, "Guard: gradient norm to which an unlearning step is clipped."
    )
    forget_fraction: float = setting(0.5, "Share of the texts, most confident first, to unlearn.")
    alpha: float | None = setting(
        None, "Step size in the forgetting confidence; --learning_rate if not given."
    )

    bf16: bool | None = setting(
        None, "Mixed precision in bfloat16; on where the hardware computes in it."
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None and not self.fp16:
            self.bf16 = bf16_is_fast()
        super().__post_init__()
        if self.unlearning_rate is None:
            self.unlearning_rate = self.learning_rate / 10
        self.alpha = self.learning_rate if self.alpha is None else self.alpha
        if isinstance(self.alpha, int):
            self.alpha = float(self.alpha)
        for name, valid, meaning in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps > 0, "above 0"),
            ("seed", self.seed >= 0, "0 or more"),
            ("alpha", isinstance(self.alpha, float) and 0 <= self.alpha < math.inf, "0 or more"),
            ("unlearning_interval", self.unlearning_interval >= 0, "0 (off) or more"),
            ("forget_fraction", 0 < self.forget_fraction <= 1, "above 0 and at most 1"),
            ("num_train_epochs", self.num_train_epochs > 0 or self.max_steps > 0, "above 0"),
            ("unlearning_rate", self.unlearning_rate >= 0, "0 or more"),
            ("unlearning_ceiling", self.unlearning_ceiling > 0, "above 0"),
            ("unlearning_max_grad_norm", self.unlearning_max_grad_norm > 0, "above 0"),
            ("per_device_train_batch_size", self.per_device_train_batch_size > 0, "above 0"),
        ):
            if not valid:
                raise InputError(f"--{name} must be {meaning}, not {getattr(self, name)}")


class LWFTrainer(SFTTrainer):
    """Fine-tunes on the learning task; after every N_u steps, one step of gradient ascent.

    The kind of every optimizer step is fixed before training starts (`kinds`), and all its
    micro-batches come from the forget set or none does. An unlearning step's loss is TRL's own
    with the opposite sign, times `unlearning_rate / learning_rate`: what a forget batch adds to
    AdamW's moments is then worth `unlearning_rate` wherever it is spent. The learning-rate schedule
    counts learning steps only, and they see the same batches as without unlearning.

    Args:
        forget_dataset: the texts to unlearn: rows with `input_ids` and `labels`, or in a TRL format
            (prompt-completion). None, or `unlearning_interval=0`: exactly TRL's trainer.
        kwargs: as `trl.SFTTrainer`.
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
        self.forget_dataset = None
        self._unlearn_log: dict[str, list[float]] = defaultdict(list)
        self._logged_step = 0
        if forget_dataset is None or not getattr(self.args, "unlearning_interval", 0):
            return
        if self.padding_free:
            raise InputError("--packing and --padding_free do not work with unlearning yet")
        if not hasattr(self.train_dataset, "__len__"):
            raise InputError(
                "--learn: a streamed data set has no length to plan unlearning steps by"
            )
        self.forget_dataset = self._prepare_dataset(
            forget_dataset, self.processing_class, self.args, False, None, "forget"
        )
        # The trainer clips only where there is a bound; the one for unlearning is always there.
        self.args.max_grad_norm = self.args.max_grad_norm or math.inf
        self.add_callback(_LearningEpochs(self))

    @property
    def unlearning_weight(self) -> float:
        """What the loss of an unlearning step is multiplied by, beside its sign."""
        return self.args.unlearning_rate / self.args.learning_rate

    @property
    def unlearning_now(self) -> bool:
        """Whether the optimizer step under way is an unlearning step."""
        return bool(self.kinds) and self.kinds[min(self.state.global_step, len(self.kinds) - 1)]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stream of the whole run, learning and unlearning steps in their order."""
        learning = super().get_train_dataloader()
        if self.forget_dataset is None:
            return learning
        plan = super().set_initial_training_values(self.args, learning)
        self.steps_per_epoch, learning_steps = plan[1], plan[-1]
        self.kinds = periodic(learning_steps, self.args.unlearning_interval)
        if not any(self.kinds):
            letgo_log.warning("no unlearning step will happen: the run has %d learning steps and "
                              "--unlearning_interval is %d", learning_steps,
                              self.args.unlearning_interval)  # fmt: skip
        batches = learning.batch_sampler
        batches = getattr(batches, "batch_sampler", batches)  # unwrap the split over processes
        first = len(self.train_dataset)
        forget = range(first, first + len(self.forget_dataset))
        stream = StepStream(
            self.kinds, batches, forget, forget.stop, self._train_batch_size,
            self.args.gradient_accumulation_steps, self.args.world_size, self.args.process_index,
            self.args.seed,
        )  # fmt: skip
        rows = MixedRows(self.train_dataset, self.forget_dataset, self._tokenizer.pad_token_id)
        loader = DataLoader(
            rows, batch_sampler=stream, collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        # The stream is split over processes already.
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

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
        """TRL's loss; in an unlearning step, with the opposite sign and its guards."""
        if not (self.unlearning_now and model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = Batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        with torch.no_grad():
            losses = example_losses(model, batch)
        step = self.state.global_step
        require_finite(losses.sum(), "loss of the forget batch", step)
        labels, skipped = below_ceiling(batch.labels, losses, self.args.unlearning_ceiling)
        # TRL averages what it measures here into the learning figures; unlearning has its own.
        metrics = self._metrics
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}
        loss = super().compute_loss(
            model, {**inputs, "labels": labels}, num_items_in_batch=num_items_in_batch
        )
        self._metrics = metrics
        loss = -self.unlearning_weight * loss
        asked = (batch.labels != -100).any(1)
        if asked.any():
            self._unlearn_log["unlearn/loss"].append(loss.item())
            self._unlearn_log["unlearn/nll"].append(losses[asked].mean().item())
            self._unlearn_log["unlearn/skipped"].append(skipped)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; returns its learning loss, 0 for unlearning."""
        loss = super().training_step(*args, **kwargs)
        if not self.unlearning_now:
            remedy = "lower --learning_rate"
            require_finite(loss, "learning loss", self.state.global_step, remedy)
        # What is returned goes into the logged learning loss only.
        return torch.zeros_like(loss) if self.unlearning_now else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip to `max_grad_norm`; an unlearning step has a bound of its own.

        Clipping a second time in a callback would unscale a float16 gradient twice.
        """
        if not self.unlearning_now:
            return super()._clip_grad_norm(model)
        weight = self.unlearning_weight
        norm = self.accelerator.clip_grad_norm_(
            model.parameters(), weight * self.args.unlearning_max_grad_norm
        )
        if norm is not None and weight:  # DeepSpeed clips by itself
            if self.accelerator.scaler is None:  # a float16 scaler skips such a step by itself
                require_finite(norm, "gradient norm of the forget batch", self.state.global_step)
            self._unlearn_log["unlearn/grad_norm"].append(float(norm) / weight)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log learning figures without unlearning steps, and those under their own names."""
        if self.forget_dataset is not None and "loss" in logs:
            window = self.kinds[self._logged_step : self.state.global_step]
            self._logged_step = self.state.global_step
            learning = window.count(False)
            if learning:  # the trainer has divided by steps of both kinds
                logs["loss"] *= len(window) / learning
            else:
                del logs["loss"], logs["learning_rate"]
            if window[-1]:  # an unlearning step's norm has a name of its own
                logs.pop("grad_norm", None)
            logs.update(self._drain_unlearning(window.count(True)))
        if self.forget_dataset is not None and "train_loss" in logs and self.kinds:
            logs["train_loss"] *= len(self.kinds) / self.kinds.count(False)
        super().log(logs, start_time)

    def _drain_unlearning(self, steps: int) -> dict[str, float]:
        """The figures of the unlearning steps since the last log; nothing if there was none."""
        figures = {name: sum(values) / len(values) for name, values in self._unlearn_log.items()}
        if figures:  # a step's loss and its skipped texts are sums over its micro-batches
            figures["unlearn/loss"] = sum(self._unlearn_log["unlearn/loss"]) / steps
            figures["unlearn/skipped"] = sum(self._unlearn_log["unlearn/skipped"])
            figures["unlearn/steps"] = self.kinds[: self.state.global_step].count(True)
        self._unlearn_log.clear()
        return figures


class _LearningEpochs(TrainerCallback):
    """Epochs counted in learning steps."""

    def __init__(self, trainer: LWFTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._logged_step = state.global_step  # not 0 when resumed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        learned = trainer.kinds[: state.global_step].count(False)
        state.epoch = learned / trainer.steps_per_epoch
        # The trainer takes the whole stream for one epoch and would not notice where ours end.
        if learned % trainer.steps_per_epoch == 0 and not trainer.kinds[state.global_step - 1]:
            control.should_log |= args.logging_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch"
