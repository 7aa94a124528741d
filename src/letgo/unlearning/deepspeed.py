"""What unlearning can do under DeepSpeed, which clips and steps by itself."""

from typing import Any

from letgo.errors import InputError


def check_deepspeed(deepspeed: dict[str, Any], args: Any, model: Any) -> None:
    """Refuse what would come out wrong.

    DeepSpeed gives the optimizer one group of weights at a time, so that no step can be sized by
    the gradient of all of them; a weight on the loss works.

    Args:
        deepspeed: its configuration.
        args: the `LWFConfig`.
        model: before its first step.

    Raises:
        InputError: names what to change.
    """
    if args.unlearning_rate is None or args.unlearning_state == "separate":
        raise InputError(
            "DeepSpeed steps one group of weights at a time, which --unlearning_strength and "
            "--unlearning_state separate cannot size: give --unlearning_rate with "
            "--unlearning_state shared, or use FSDP2"
        )
    for name, flag in (("optimizer", "--optim"), ("scheduler", "--lr_scheduler_type")):
        if name in deepspeed:
            raise InputError(
                f"the DeepSpeed configuration has its own {name}, which unlearning steps would go "
                f"past: leave it out and give {flag}"
            )
    if deepspeed.get("zero_optimization", {}).get("stage", 0) == 0:
        raise InputError(
            "DeepSpeed without ZeRO clips to a bound that cannot change from step to step: set "
            "zero_stage to 1, 2 or 3, or leave DeepSpeed out"
        )
    if args.unlearning_loss == "npo" and any(hasattr(p, "ds_id") for p in model.parameters()):
        raise InputError(
            "--unlearning_loss npo runs the base model before DeepSpeed takes it up: set "
            "zero3_init_flag to false"
        )
