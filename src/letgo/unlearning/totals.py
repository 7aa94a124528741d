"""What the log of a training sums up, which checkpoints of the Trainer leave out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer

NAME = "letgo_totals"  # the entry in the checkpoint's `trainer_state.json`


def totals(trainer: "LWFTrainer") -> dict[str, Any]:
    """The sums of the losses and tokens so far, and what is not logged yet."""
    return {
        "total_loss": trainer._total_loss_scalar,
        "loss": float(trainer.accelerator.gather(trainer._tr_loss).mean()),  # since the last line
        "logged": trainer._globalstep_last_logged,
        "tokens": trainer._total_train_tokens,
        "learning": dict(trainer._metrics["train"]),
        "others": trainer.metrics.state(),
    }


def divide_by_learning_steps(trainer: "LWFTrainer", is_resumed: bool) -> None:
    """Let the result of training be the mean loss of all learning steps.

    The trainer is about to divide the sum of the losses by the steps of this call.
    """
    first, last = trainer._initial_global_step, trainer.state.global_step
    summed = last - (start := 0 if is_resumed else first)
    if trainer.has_plan:
        summed = trainer.plan.learned(last) - trainer.plan.learned(start)
    if summed:
        trainer._total_loss_scalar *= (last - first) / summed
        trainer._tr_loss *= (last - first) / summed


def restore(trainer: "LWFTrainer", saved: dict[str, Any]) -> None:
    """Go on with the sums of the run that wrote the checkpoint."""
    trainer._total_loss_scalar = saved["total_loss"]
    trainer._tr_loss += saved["loss"]
    trainer._globalstep_last_logged = trainer.metrics.logged_steps = saved["logged"]
    trainer._total_train_tokens = saved["tokens"]
    trainer._metrics["train"].update(saved["learning"])
    trainer.metrics.load(saved["others"])
