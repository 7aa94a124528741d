"""Whether texts can be unlearned beside this learning data, by this tokenizer's tokens."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset

from letgo.errors import InputError
from letgo.progress import log


def check_tokens(dataset: Dataset, tokenizer: Any, vocabulary: int) -> None:
    """Refuse texts that another tokenizer has made.

    Args:
        dataset: rows as `letgo elicit` writes them, or with `input_ids`; others pass.
        tokenizer: of the model to be trained.
        vocabulary: how many tokens the model has.

    Raises:
        InputError: a token that the model does not have, or one that stands for another text.
    """
    names = [
        name
        for name in ("input_ids", "prompt_ids", "completion_ids")
        if name in dataset.column_names
    ]
    remedy = "elicit the texts again with this model (`letgo elicit`)"
    for row in dataset:
        highest = max((max(row[name], default=0) for name in names), default=0)
        if highest >= vocabulary:
            raise InputError(
                f"--forget: the texts are from another tokenizer: they hold token {highest}, this "
                f"one has {len(tokenizer)}; {remedy}"
            )
        if "completion_ids" in names and isinstance(row.get("completion"), str):
            text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
            if text != row["completion"]:
                raise InputError(
                    f"--forget: the texts are from another tokenizer: the tokens of "
                    f"{row['completion'][:40]!r} stand for {text[:40]!r} in this one; {remedy}"
                )


def examples(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, list[int]]]:
    """Every example as a row of `input_ids` and `labels`.

    Args:
        rows: `input_ids`, `labels` (else all tokens are), and `seq_lengths` where several examples
            are packed into one.
    """
    for row in rows:
        start = 0
        labels = row.get("labels") or row["input_ids"]
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            yield {"input_ids": list(row["input_ids"][part]), "labels": list(labels[part])}
            start += length


def prompt(row: dict[str, list[int]]) -> tuple[int, ...]:
    """The token ids before the first label of an example."""
    labels = row["labels"]
    first = next((i for i, label in enumerate(labels) if label != -100), len(labels))
    return tuple(row["input_ids"][:first])


def prompts(rows: Iterable[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The prompts of all examples that have one."""
    return [found for found in map(prompt, examples(rows)) if found]


def check_overlap(
    learning: Iterable[dict[str, Any]], forget: Sequence[dict[str, Any]], most: float
) -> None:
    """Count the texts to unlearn that answer a prompt of the learning data.

    Args:
        learning, forget: rows as for `examples`. A learning example without a masked prompt (whole
            conversations, plain text) may begin with any; a lone token, as of a beginning of a
            text, is no prompt then.
        most: share of them that may.

    Raises:
        InputError: they are more.
    """
    given = prompts(forget)
    wanted = set(given)
    lengths = {len(text) for text in given} - {1}
    asked: set[tuple[int, ...]] = set()
    for row in examples(learning):
        ids, own = tuple(row["input_ids"]), prompt(row)
        begins = {own} if own else {ids[:n] for n in lengths if n < len(ids)}
        asked |= begins & wanted
    count = sum(text in asked for text in given)
    said = f"{count} of {len(forget)} texts to unlearn answer a learning prompt"
    if count > most * len(forget):
        raise InputError(
            f"--forget: {said}, more than --forget_max_overlap {most:g}: unlearning them may undo "
            f"the learning; give other prompts, or raise it if that is meant"
        )
    if count:
        log.warning("%s", said)


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
