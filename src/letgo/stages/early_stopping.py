"""Early stopping that a resumed training goes on with."""

import transformers as hf


class EarlyStopping(hf.EarlyStoppingCallback):
    """Stops training after `patience` evaluations without a better one.

    The trainer's own callback begins to count anew in a resumed training.
    """

    def on_train_begin(
        self,
        args: hf.TrainingArguments,
        state: hf.TrainerState,
        control: hf.TrainerControl,
        **kwargs: object,
    ) -> None:
        """Go on from the count in the checkpoint; in a new training it is 0."""
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        for name, value in saved.get("attributes", {}).items():
            setattr(self, name, value)

    def on_evaluate(
        self,
        args: hf.TrainingArguments,
        state: hf.TrainerState,
        control: hf.TrainerControl,
        metrics: dict[str, float],
        **kwargs: object,
    ) -> None:
        """Count the evaluation.

        That of the last step is not saved: from its checkpoint, training would go on.
        """
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop:
            control.should_save = False
