"""Evaluation while training, on the validation set: its settings, and those that follow."""

from typing import Any

from letgo.errors import InputError

# What TRL's trainer measures on a validation set, and which of it a best model can be chosen by.
METRICS = ("loss", "mean_token_accuracy", "entropy")


def complete(given: dict[str, Any]) -> None:
    """Check the settings of the evaluations, and fill in those that follow from them.

    The best model is loaded from a checkpoint, so there is one at every evaluation.

    Args:
        given: the values of all settings; changed in place.

    Raises:
        InputError: a setting that needs evaluations without any, or an unknown metric.
    """
    strategy = _plain(given["eval_strategy"])
    patience = given["early_stopping_patience"]
    for name, is_set in (
        ("load_best_model_at_end", given["load_best_model_at_end"]),
        ("early_stopping_patience", patience > 0),
    ):
        if is_set and strategy == "no":
            raise InputError(
                f"--{name} {given[name]} needs evaluations on the validation set; add "
                f"--eval_strategy epoch, or steps with --eval_steps N"
            )
    metric = given["metric_for_best_model"]
    if metric and metric.removeprefix("eval_") not in METRICS:
        raise InputError(
            f"--metric_for_best_model must be one of {', '.join(METRICS)}, not {metric}: that is "
            f"what is measured on the validation set"
        )
    if patience > 0 and not metric:
        given["metric_for_best_model"] = METRICS[0]
    if given["load_best_model_at_end"] and _plain(given["save_strategy"]) == "no":
        given["save_strategy"] = strategy
        given["save_steps"] = given["eval_steps"] or given["logging_steps"]


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))
