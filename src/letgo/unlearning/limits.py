"""What unlearning does not work with, refused before anything is trained."""

from typing import Any

from letgo.errors import InputError


def check_settings(args: Any, learning: Any, padding_free: bool) -> None:
    """Refuse what would come out wrong without a word.

    The stream of a run holds its learning batches in an order that is known before it starts. An
    order drawn from the global random numbers epoch by epoch is neither known nor repeatable.

    Args:
        args: the `LWFConfig`.
        learning: the learning data.
        padding_free: whether its batches are flattened.

    Raises:
        InputError: names the flag and what to do.
    """
    strategy, loading = args.train_sampling_strategy, args.accelerator_config
    for wrong, message in (
        (
            not hasattr(learning, "__len__"),
            "--learn: a streamed data set has no length to plan unlearning steps by",
        ),
        (
            args.unlearning_loss == "graddiff" and padding_free,
            "--unlearning_loss graddiff does not work with packed learning data",
        ),
        (
            args.ignore_data_skip,
            "--ignore_data_skip: a resumed run would take texts to unlearn for learning data and "
            "learn them; leave it out",
        ),
        (
            strategy not in ("random", "sequential"),
            f"--train_sampling_strategy {strategy} does not work with unlearning: give random or "
            f"sequential",
        ),
        (
            loading.split_batches or not loading.use_seedable_sampler,
            "--accelerator_config: unlearning needs use_seedable_sampler true and split_batches "
            "false",
        ),
    ):
        if wrong:
            raise InputError(message)
