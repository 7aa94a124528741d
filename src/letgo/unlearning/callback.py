"""What happens before and after every optimizer step of a run that unlearns or keeps."""

import math
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from letgo.progress import log
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.guards import loss_has_risen, watch_learning
from letgo.unlearning.schedule import Step

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer


class UnlearningCallback(TrainerCallback):
    """Sets the strength of each step, records its result, and counts epochs in learning steps."""

    def __init__(self, trainer: "LWFTrainer"):
        self.trainer, self.save_is_postponed = trainer, False
        self.evaluation_is_postponed = False

    def on_train_begin(
        self, args: LWFConfig, state: TrainerState, *_: object, **__: object
    ) -> None:
        """Correct the number of epochs: the trainer takes the whole stream for one."""
        self.trainer.metrics.logged_steps = state.global_step  # not 0 in a resumed run
        state.num_train_epochs = self.trainer.epochs

    def on_step_begin(self, args: LWFConfig, state: TrainerState, *_: object, **__: object) -> None:
        """Set the strength of the step before its first micro-batch.

        Not right before the optimizer's step: DeepSpeed steps within the last backward pass.
        """
        trainer, step = self.trainer, state.global_step
        self.paused = loss_has_risen(trainer.tracker, args.unlearning_max_rise)
        trainer.step_strength = 0.0 if self.paused else trainer.plan.strength(step)
        full = 1.0 if args.unlearning_strength is None else args.unlearning_strength
        requested = trainer.step_strength * full
        trainer.step_size.prepare(trainer.tracker, trainer.plan, step, requested)
        if engine := getattr(trainer.accelerator, "deepspeed_engine_wrapped", None):
            bound = trainer.max_norm()
            engine.engine.optimizer.clip_grad = bound if math.isfinite(bound) else 0.0

    def on_step_end(
        self, args: LWFConfig, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Record the result of the step; log, save and evaluate at the end of an epoch."""
        trainer, plan = self.trainer, self.trainer.plan
        device, reduce = trainer.accelerator.device, trainer.accelerator.reduce
        kind = plan.step(state.global_step - 1)
        if kind == Step.UNLEARN:
            self._record_unlearning(args)
        elif kind == Step.KEEP:
            loss = torch.tensor(trainer.metrics.keep_loss, device=device)
            trainer.metrics.keep_step(float(reduce(loss)))
        else:
            loss = torch.tensor(trainer.step_loss, device=device)
            watch_learning(trainer.tracker, float(reduce(loss, "mean")))
        trainer.step_loss = 0.0
        state.epoch = plan.learned(state.global_step) / plan.steps_per_epoch
        if plan.epoch_ends(state.global_step):
            control.should_log |= args.logging_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch"
        # An adaptive unlearning step needs the gradient of the learning step before it, which no
        # checkpoint contains. So a checkpoint between the two is postponed until after both.
        between = trainer.step_size.adaptive and plan.is_unlearning(state.global_step)
        save = control.should_save or self.save_is_postponed
        self.save_is_postponed = control.should_save and between
        control.should_save = save and not between
        if args.load_best_model_at_end:  # the best model is loaded from its checkpoint
            evaluate = control.should_evaluate or self.evaluation_is_postponed
            self.evaluation_is_postponed = control.should_evaluate and between
            control.should_evaluate = evaluate and not between

    def _record_unlearning(self, args: LWFConfig) -> None:
        trainer, tracker, accelerator = self.trainer, self.trainer.tracker, self.trainer.accelerator
        if self.paused and not tracker.guard_counts["paused"]:
            log.warning(
                "the learning loss is more than --unlearning_max_rise %g above its lowest value: "
                "unlearning pauses until it has fallen again",
                args.unlearning_max_rise,
            )
        sums = torch.tensor(trainer.metrics.step_sums, device=accelerator.device)
        sums = accelerator.reduce(sums).tolist()
        guards = {"clipped": trainer.clipped, "paused": self.paused}
        for name, count in {"skipped": sums[3], **guards}.items():
            tracker.guard_counts[name] += int(count)
        strength = trainer.step_size.strength
        trainer.metrics.step(
            sums,
            grad_norm=trainer.grad_norm / (trainer.loss_weight or 1.0),
            strength=strength,
            update=strength * tracker.update.value,  # its length, with separate optimizer state
            **guards,
        )

    def on_epoch_end(
        self, args: LWFConfig, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Prevent a second checkpoint and evaluation after the last step of the run."""
        if self.trainer.plan.epoch_ends(state.global_step):
            control.should_save &= args.save_strategy != "epoch"
            control.should_evaluate &= args.eval_strategy != "epoch"
