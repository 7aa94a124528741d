"""What happens around every optimizer step of a run that unlearns."""

import math
from typing import Any

import torch
from transformers import TrainerCallback

from letgo.progress import log
from letgo.unlearning.guards import risen, watch_learning
from letgo.unlearning.schedule import factor


class UnlearningCallback(TrainerCallback):
    """Tells the dose what comes, takes in what came, and counts epochs in learning steps."""

    def __init__(self, trainer: Any):
        self.trainer, self.late = trainer, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log from here on."""
        self.trainer.logged_step = state.global_step  # not 0 when resumed
        state.num_train_epochs = self.trainer.epochs

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what the step is, before its first micro-batch.

        Not right before the optimizer's step: DeepSpeed steps within the last backward pass.
        """
        trainer = self.trainer
        self.paused = risen(trainer.tracker, args.unlearning_max_rise)
        done, count = trainer.kinds[: state.global_step].count(True), trainer.kinds.count(True)
        schedule = args.unlearning_schedule
        trainer.part = 0.0 if self.paused or not count else factor(schedule, done, count)
        strength = 1.0 if args.unlearning_strength is None else args.unlearning_strength
        trainer.step_size.prepare(
            trainer.tracker,
            trainer.unlearning_now,
            trainer.part * strength,
            self._unlearning_at(state.global_step + 1),
        )
        if engine := getattr(trainer.accelerator, "deepspeed_engine_wrapped", None):
            bound = trainer.bound()
            engine.engine.optimizer.clip_grad = bound if math.isfinite(bound) else 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take in what the step came to."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        unlearned = trainer.kinds[state.global_step - 1]
        if unlearned:
            weight = trainer.loss_weight or 1.0
            if self.paused and not trainer.tracker.acted["paused"]:
                log.warning(
                    "the learning loss has risen more than --unlearning_max_rise %g above "
                    "its low: unlearning pauses until it is back",
                    args.unlearning_max_rise,
                )
            trainer.metrics.step(
                trainer.tracker,
                accelerator.reduce,
                accelerator.device,
                trainer.norm / weight,
                trainer.step_size.strength,
                trainer.clipped,
                self.paused,
            )
        else:
            loss = torch.tensor(trainer.learning_loss, device=accelerator.device)
            watch_learning(trainer.tracker, float(accelerator.reduce(loss, "mean")))
        trainer.learning_loss = 0.0
        learned = trainer.kinds[: state.global_step].count(False)
        state.epoch = learned / trainer.steps_per_epoch
        # The trainer takes the whole stream for one epoch and would not notice where ours end.
        if self._epoch_ends(state.global_step):
            control.should_log |= args.logging_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch"
        # An adaptive unlearning step needs the gradient of the learning step before it, which no
        # checkpoint holds: a checkpoint between the two is written after both.
        between = trainer.step_size.adaptive and self._unlearning_at(state.global_step)
        late, self.late = self.late, control.should_save and between
        control.should_save = (control.should_save or late) and not between

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the trainer from doing twice what the run's last step has done."""
        if self._epoch_ends(state.global_step):
            control.should_save &= args.save_strategy != "epoch"
            control.should_evaluate &= args.eval_strategy != "epoch"

    def _epoch_ends(self, step: int) -> bool:
        """Whether an epoch of learning steps is over, with the unlearning steps that follow it."""
        kinds = self.trainer.kinds
        learned = kinds[:step].count(False)
        over = learned > 0 and learned % self.trainer.steps_per_epoch == 0
        return over and not self._unlearning_at(step)

    def _unlearning_at(self, step: int) -> bool:
        return any(self.trainer.kinds[step : step + 1])
