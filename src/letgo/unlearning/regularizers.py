"""Baselines that keep a model near its start instead of unlearning; penalties on learning steps.

Replay, the opposite of unlearning, is an unlearning loss (`losses.py`). The paper also compares
with "SRS"; we could not find out what that stands for, so it is missing.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.scoring.fisher import estimate
from letgo.scoring.weights import scored_weights

if TYPE_CHECKING:
    from letgo.unlearning.config import LWFConfig

Penalty = Callable[[Tensor], Tensor]  # from a micro-batch's labels (batch, tokens) to a scalar


# Default weights, from the papers: BSS's eta, L2-SP's alpha, EWC's lambda.
REGULARIZERS = {"bss": 1e-3, "l2_sp": 0.1, "ewc": 400.0}


def penalty(
    args: "LWFConfig",
    model: PreTrainedModel,
    texts: Sequence[dict[str, list[int]]],
    tokenizer: PreTrainedTokenizerBase,
    sharded: bool,
    packed: bool,
) -> Penalty | None:
    """The penalty of `args.regularizer`; None for "none".

    Args:
        args, model: of the training, before its first step.
        texts: self-generated texts, `input_ids` and `labels`, for the Fisher information of EWC.
        tokenizer: for padding them.
        sharded: whether the weights will be split over processes.
        packed: whether several learning examples make up one row.

    Raises:
        InputError: the regularizer does not work with this model or these data.
    """
    name, weight = args.regularizer, args.regularizer_weight
    if name == "none":
        return None
    weight = REGULARIZERS[name] if weight is None else weight
    if name == "bss" and packed:
        raise InputError(
            "--regularizer bss needs a feature of every example; it does not work with packed or "
            "padding-free learning data"
        )
    if name == "bss":
        return batch_spectral_shrinkage(model, weight)
    if sharded or hasattr(model, "peft_config"):
        raise InputError(
            f"--regularizer {name} compares all weights with those of the base model; it works "
            f"neither with an adapter nor with sharded weights (FSDP, DeepSpeed)"
        )
    if name == "l2_sp":
        return distance_to_start(model, weight, {})
    if not texts:
        raise InputError(
            "--regularizer ewc needs the base model's own texts; set forget_dataset (--forget)"
        )
    model.eval()
    weights = scored_weights(model).layers_only()
    batches = weights.batches([len(row["input_ids"]) for row in texts], 1024)
    fisher, _ = estimate("diagonal", LanguageModel(model, tokenizer), weights, texts, batches)
    importance = {}
    for name, layer in weights.layers.items():
        diagonal = fisher[name].tensors["diagonal"]  # (out, in)
        importance[f"{name}.weight"] = diagonal.T if isinstance(layer, Conv1D) else diagonal
    return distance_to_start(model, weight, importance)


def penalty_divisor(
    name: str, batches: Sequence[dict[str, Tensor]], reduce: Callable[..., Tensor]
) -> float:
    """Divisor of each micro-batch's penalty that makes the step's penalty their mean.

    `batches` are this process's micro-batches; some may contain no example.
    """
    if name != "bss":  # a penalty on the weights, equal in every micro-batch
        return float(len(batches))
    full = sum((batch["labels"] != -100).any() for batch in batches)
    return float(reduce(torch.as_tensor(full).float(), "mean")) or 1.0


def batch_spectral_shrinkage(model: PreTrainedModel, weight: float) -> Penalty:
    """The smallest singular value, squared, of the batch's features (Chen et al., NeurIPS 2019).

    The feature of an example is the mean of its last hidden states where a label is predicted.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    last: list[Tensor] = []

    def store(_module: nn.Module, _inputs: object, output: Any) -> None:
        last[:] = [output.last_hidden_state]

    whole.base_model.register_forward_hook(store)

    def of_batch(labels: Tensor) -> Tensor:
        hidden = last.pop()[:, :-1].float()  # (batch, tokens - 1, hidden)
        predicted = (labels[:, 1:] != -100).unsqueeze(2)  # (batch, tokens - 1, 1)
        features = (hidden * predicted).sum(1) / predicted.sum(1).clamp(min=1)  # (batch, hidden)
        return weight * torch.linalg.svdvals(features)[-1] ** 2

    return of_batch


def distance_to_start(
    model: PreTrainedModel, weight: float, importance: dict[str, Tensor]
) -> Penalty:
    """Half the squared distance to the weights at the start, of which it keeps a copy.

    Without importance this is L2-SP (Li et al., ICML 2018), with the Fisher information of the base
    model's texts EWC (Kirkpatrick et al., PNAS 2017).

    `importance` has, by name, a factor for each weight of a tensor; other tensors do not count. If
    it is empty, all weights count equally.
    """
    start = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (not importance or name in importance)
    }

    def of_batch(_labels: Tensor) -> Tensor:
        total = torch.zeros((), device=next(iter(start.values())).device)
        for name, now in model.named_parameters():
            if name in start:
                square = (now - start[name].to(now.device)) ** 2
                total = total.to(now.device) + (square * importance.get(name, 1.0)).sum()
        return weight / 2 * total

    return of_batch
