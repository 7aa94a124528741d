"""One micro-batch's share of the loss of an unlearning step or a keep step."""

from typing import Any

import torch
from torch import Tensor, nn

from letgo.models.inference import Batch
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.guards import guarded_loss, require_finite
from letgo.unlearning.keep import batch_keep_loss
from letgo.unlearning.losses import LOSSES, TextBatch
from letgo.unlearning.weights import by_weight


def tokens_of_process(tokens: Tensor, args: LWFConfig, processes: int) -> Tensor:
    """The divisor of a process's loss, whose gradient is averaged over the processes.

    Args:
        tokens: labels of the step, of all processes together or of this one.
        args: say which of the two.
        processes: the number of processes.
    """
    return tokens.clamp(min=1) / (processes if args.average_tokens_across_devices else 1)


def unlearning_share(
    model: nn.Module,
    inputs: dict[str, Any],
    attributes: tuple[Any, ...],
    args: LWFConfig,
    step: int,
    weights: Tensor | None = None,
    base: Tensor | None = None,
) -> tuple[Tensor, Tensor, int]:
    """The share of an unlearning step's loss, as `guards.guarded_loss` returns it.

    Args:
        model, inputs: in training; the inputs are those of one micro-batch.
        attributes: of `losses.TextBatch`, without those that the model computes.
        args, step: of the training; the optimizer steps before this one.
        weights: (texts,) by which the losses of the texts are multiplied; None for 1.
        base: (texts, tokens) log-probability of each label under the base model; with it only the
            labels in conflict are unlearned.
    """
    # TRL's fused head: log-probabilities without the logits of the whole vocabulary.
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    labelled = outputs.label_mask.any(1)
    texts = TextBatch.of_outputs(outputs, *attributes)
    weights = None if weights is None else weights[labelled]
    if base is not None:
        texts = texts.in_conflict(base[labelled])
        if not LOSSES[args.unlearning_loss].pairs:
            left = texts.labelled.any(1)
            texts, weights = texts.rows(left), None if weights is None else weights[left]
    parts = by_weight(texts, weights)
    shares = [(weight, *guarded_loss(part, args, step)) for weight, part in parts]
    loss = torch.stack([weight * share for weight, share, _, _ in shares]).sum()
    return loss, torch.cat([nll for _, _, nll, _ in shares]), sum(n for _, _, _, n in shares)


def keep_share(
    model: nn.Module,
    inputs: dict[str, Any],
    tops: tuple[Tensor, Tensor],
    tokens: Tensor,
    args: LWFConfig,
    step: int,
) -> Tensor:
    """The share of a keep step's loss, a scalar in nats: the mean over the labels of the step.

    Args:
        tops: ids and log-probabilities of the base model's likeliest tokens, (labels, k) each.
        tokens: of `tokens_of_process`.

    Raises:
        Diverged: the loss is not finite.
    """
    batch = Batch(*(inputs[name] for name in Batch._fields))
    loss = batch_keep_loss(model, batch, *tops, args.keep_loss) / tokens
    require_finite(loss, "keep loss", step, False)
    return loss
