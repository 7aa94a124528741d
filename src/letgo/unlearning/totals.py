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


def restore(trainer: "LWFTrainer", saved: dict[str, Any]) -> None:
    """Go on with the sums of the run that wrote the checkpoint."""
    trainer._total_loss_scalar = saved["total_loss"]
    trainer._tr_loss += saved["loss"]
    trainer._globalstep_last_logged = trainer.metrics.logged_steps = saved["logged"]
    trainer._total_train_tokens = saved["tokens"]
    trainer._metrics["train"].update(saved["learning"])
    trainer.metrics.load(saved["others"])
