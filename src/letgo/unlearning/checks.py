"""Checks before training: settings, DeepSpeed, and the texts to unlearn."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from letgo.errors import InputError
from letgo.progress import log
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.losses import LOSSES


def check_settings(args: LWFConfig, learning: object, padding_free: bool) -> None:
    """Reject settings that would silently give wrong results.

    The order of the learning batches must be known before the run starts and be repeatable. An
    order drawn epoch by epoch from the global random numbers is neither.

    Raises:
        InputError: names the setting and what to do.
    """
    strategy, loading = args.train_sampling_strategy, args.accelerator_config
    problems = {
        "train_dataset (--learn): unlearning steps cannot be planned for streamed data, which have "
        "no length; load them as a whole": not hasattr(learning, "__len__"),
        f"--unlearning_loss {args.unlearning_loss} does not work with packed or padding-free "
        f"learning data": LOSSES[args.unlearning_loss].mixes_learning and padding_free,
        "--ignore_data_skip: a resumed run would learn the texts that it should unlearn; leave it "
        "out": args.ignore_data_skip,
        f"--train_sampling_strategy {strategy} does not work with unlearning; choose random or "
        f"sequential": strategy not in ("random", "sequential"),
        "--accelerator_config: unlearning needs use_seedable_sampler true and split_batches "
        "false": loading.split_batches or not loading.use_seedable_sampler,
    }
    for message, is_present in problems.items():
        if is_present:
            raise InputError(message)


def check_deepspeed(deepspeed: dict[str, Any], args: LWFConfig, model: PreTrainedModel) -> None:
    """Reject settings that DeepSpeed cannot apply to unlearning steps.

    It passes the optimizer one parameter group at a time, so no step can be scaled by the gradient
    norm of all parameters. A weight on the loss works.

    Raises:
        InputError: names what to change.
    """
    if args.unlearning_rate is None or args.unlearning_state == "separate":
        raise InputError(
            "DeepSpeed updates one parameter group at a time, so --unlearning_strength and "
            "--unlearning_state separate have no effect; set --unlearning_rate with "
            "--unlearning_state shared, or use FSDP2"
        )
    for name, flag in (("optimizer", "--optim"), ("scheduler", "--lr_scheduler_type")):
        if name in deepspeed:
            raise InputError(
                f"the DeepSpeed configuration defines its own {name}, which does not handle "
                f"unlearning steps; remove it and set {flag}"
            )
    if deepspeed.get("zero_optimization", {}).get("stage", 0) == 0:
        raise InputError(
            "without ZeRO, DeepSpeed cannot change the gradient clipping from step to step; set "
            "zero_stage to 1, 2 or 3, or do not use DeepSpeed"
        )
    split = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    by_token = args.forget_tokens == "conflict"
    if split and (by_token or LOSSES[args.unlearning_loss].needs_reference):
        setting = (
            "forget_tokens conflict" if by_token else f"unlearning_loss {args.unlearning_loss}"
        )
        raise InputError(
            f"--{setting} evaluates the base model before DeepSpeed is set up; set zero3_init_flag "
            f"to false"
        )


def check_tokens(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Reject texts that were tokenized by another tokenizer.

    Raises:
        InputError: a token id is outside the vocabulary, or `completion_ids` do not decode to
            `completion`.
    """
    names = {"input_ids", "prompt_ids", "completion_ids"} & {*dataset.column_names}
    problem = "forget_dataset (--forget): the texts are from another tokenizer:"
    remedy = "generate the texts again with this model (`letgo elicit`)"
    for row in dataset:
        highest = max((max(row[name], default=0) for name in names), default=0)
        if highest >= vocabulary:
            raise InputError(
                f"{problem} they contain token {highest}, but this one has {len(tokenizer)} "
                f"tokens; {remedy}"
            )
        if "completion_ids" in names and isinstance(row.get("completion"), str):
            text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
            if text != row["completion"]:
                raise InputError(
                    f"{problem} the tokens of {row['completion'][:40]!r} decode to {text[:40]!r} "
                    f"with this one; {remedy}"
                )


def check_overlap(
    learning: Iterable[dict[str, Any]], forget: Sequence[dict[str, Any]], limit: float
) -> None:
    """Count the texts to unlearn whose prompt is a learning prompt.

    A learning example without a masked prompt (a whole conversation, plain text) counts if it
    begins with a text's prompt of at least two tokens; one token may be a mere start-of-text token.

    Args:
        learning, forget: rows of the learning data and of the texts, as for `examples`.
        limit: fraction of the texts whose prompts may be learning prompts.

    Raises:
        InputError: more texts have one.
    """
    forget_prompts = prompts(forget)
    candidates = set(forget_prompts)
    lengths = {len(text) for text in forget_prompts} - {1}
    shared: set[tuple[int, ...]] = set()
    for row in examples(learning):
        ids, own = tuple(row["input_ids"]), prompt(row)
        starts = {own} if own else {ids[:n] for n in lengths if n < len(ids)}
        shared |= starts & candidates
    count = sum(text in shared for text in forget_prompts)
    message = f"{count} of {len(forget)} texts to unlearn answer a learning prompt"
    if count > limit * len(forget):
        raise InputError(
            f"forget_dataset (--forget): {message}, more than --forget_max_overlap {limit:g}; "
            f"unlearning them may undo the learning. Use other prompts, or raise the limit"
        )
    if count:
        log.warning("%s", message)


def examples(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, list[int]]]:
    """Every example as a row of `input_ids` and `labels`; packed rows are taken apart.

    Rows without `labels` count as labelled everywhere; packed rows have `seq_lengths`.
    """
    for row in rows:
        start = 0
        labels = row.get("labels") or row["input_ids"]
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            yield {"input_ids": list(row["input_ids"][part]), "labels": list(labels[part])}
            start += length


def prompt(row: dict[str, list[int]]) -> tuple[int, ...]:
    """The token ids of an example before its first label."""
    labels = row["labels"]
    first = next((i for i, label in enumerate(labels) if label != -100), len(labels))
    return tuple(row["input_ids"][:first])


def prompts(rows: Iterable[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The prompts of all examples that have one."""
    return [ids for ids in map(prompt, examples(rows)) if ids]
