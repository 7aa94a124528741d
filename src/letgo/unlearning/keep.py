"""Keep steps: the model stays close to the base model on texts that are to be kept.

The base model's likeliest tokens are stored once, so that no second model is in memory.
"""

from collections.abc import Callable

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from letgo.errors import InputError
from letgo.models.inference import Batch, labelled_logits, top_log_probs
from letgo.progress import log
from letgo.unlearning.checks import check_tokens
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.labels import of_base_model
from letgo.unlearning.texts import labelled_rows


def divergence(logits: Tensor, top_ids: Tensor, top_log_probs: Tensor) -> Tensor:
    """KL(base || model) at each label, nats, from the base model's likeliest tokens.

    All other tokens count as one: the sum over the stored tokens and that rest is a lower bound of
    the whole divergence, and equal to it if every token is stored.

    Args:
        logits: (labels, vocabulary) of the model, float32.
        top_ids, top_log_probs: (labels, k) of the base model.

    Returns:
        (labels,)
    """
    ours = logits.log_softmax(-1).gather(-1, top_ids)
    theirs = top_log_probs.exp()
    rest, our_rest = (1 - p.sum(-1).clamp(max=1) for p in (theirs, ours.exp()))
    tiny = torch.finfo(logits.dtype).eps  # what is left may be rounded to 0
    remaining = torch.xlogy(rest, rest) - rest * our_rest.clamp(min=tiny).log()
    return (theirs * (top_log_probs - ours)).sum(-1) + remaining


def keep_loss(
    logits: Tensor, labels: Tensor, top_ids: Tensor, top_log_probs: Tensor, kind: str
) -> Tensor:
    """The sum of a micro-batch's keep loss over its labels, a scalar in nats.

    Args:
        logits: (labels, vocabulary) of the model, float32.
        labels: (labels,) the tokens of the texts.
        top_ids, top_log_probs: (labels, k) of the base model; not read for "nll".
        kind: "kl" for `divergence`, "nll" for the NLL of the texts.
    """
    if kind == "nll":
        return cross_entropy(logits, labels, reduction="sum")
    return divergence(logits, top_ids, top_log_probs).sum()


def batch_keep_loss(
    model: nn.Module, batch: Batch, top_ids: Tensor, top_log_probs: Tensor, kind: str
) -> Tensor:
    """The sum of the keep loss over the labels of a micro-batch; 0 if it has none."""
    logits = labelled_logits(model, batch)
    if not len(logits):  # nothing is left for this process
        return logits.sum()
    labels = batch.labels[:, 1:]
    return keep_loss(logits, labels[labels != -100], top_ids, top_log_probs, kind)


def prepare_keep(
    dataset: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: LWFConfig,
    tokenize: Callable[[Dataset], Dataset],
) -> Dataset:
    """Rows of texts to keep, with `input_ids`, `labels`, `top_ids` and `top_log_probs`.

    Args:
        dataset: the texts, as `texts.labelled_rows` takes them. With columns `top_ids` and
            `top_log_probs`, (labels, k) for each text, the base model is not asked again.
        model, tokenizer, args: of the training, before its first step.
        tokenize: as for `texts.labelled_rows`.

    Raises:
        InputError: a check fails, or no text has an answer within `max_length`.
    """
    check_tokens(dataset, tokenizer, model.config.get_text_config().vocab_size)
    remaining, rows = labelled_rows(dataset, tokenize)
    if not rows:
        raise InputError("keep_dataset (--keep): no text has an answer within --max_length")
    if len(rows) < len(dataset):
        count = len(dataset) - len(rows)
        log.warning("%d texts to keep are left out: they have no answer in --max_length", count)
    k = args.keep_top_k if args.keep_loss == "kl" else 0
    if k and "top_ids" in dataset.column_names:
        stored = dataset.select_columns(["top_ids", "top_log_probs"]).select(remaining).to_list()
        tops = [(text["top_ids"], text["top_log_probs"]) for text in stored]
    else:
        reading = (rows, tokenizer.pad_token_id, bool(args.bf16))
        tops = of_base_model(model, *reading, lambda batch: top_log_probs(model, batch, k))
    return Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "labels": row["labels"],
                "top_ids": i,
                "top_log_probs": p,
            }
            for row, (i, p) in zip(rows, tops, strict=True)
        ]
    )
