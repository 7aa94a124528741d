"""Baselines that hold a model back instead of making it forget; each a penalty on learning steps.

Replay, the opposite of forgetting, is an unlearning loss with the other sign
(`unlearning/losses.py`). The paper (arXiv 2505.19715) also compares with "SRS"; neither its
summaries nor the literature at hand say what that stands for, so it is not here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from letgo.errors import InputError
from letgo.scoring.fisher import estimate
from letgo.scoring.weights import scored_weights

Penalty = Callable[[Tensor], Tensor]  # from a micro-batch's labels (batch, tokens) to a number

# Name and weight: BSS eta, L2-SP alpha, EWC lambda, as their papers set them.
REGULARIZERS = {"bss": 1e-3, "l2_sp": 0.1, "ewc": 400.0}


def penalty(
    name: str,
    weight: float | None,
    model: Any,
    texts: Sequence[dict[str, list[int]]],
    pad_token_id: int,
    sharded: bool,
    packed: bool,
) -> Penalty:
    """The penalty of a regularizer, for a model that is still the base model.

    Args:
        name: of `REGULARIZERS`.
        weight: of the penalty; None for its paper's.
        model: the model to be trained, in full or by an adapter.
        texts: self-generated texts, `input_ids` and `labels`: the base knowledge EWC measures.
        pad_token_id: for padding them.
        sharded: whether the weights will be split over processes.
        packed: whether several learning examples make up one row.

    Raises:
        InputError: the regularizer cannot hold this model, or tell the examples.
    """
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
        raise InputError("--regularizer ewc measures the base model's own texts: give --forget")
    model.eval()
    weights = scored_weights(model).layers_only()
    batches = weights.batches([len(row["input_ids"]) for row in texts], 1024)
    found, _ = estimate("diagonal", model, weights, texts, batches, pad_token_id)
    importance = {}
    for name, layer in weights.layers.items():
        diagonal = found[name].tensors["diagonal"]  # (out, in)
        importance[f"{name}.weight"] = diagonal.T if isinstance(layer, Conv1D) else diagonal
    return distance_to_start(model, weight, importance)


def shares(name: str, batches: Sequence[dict[str, Tensor]], reduce: Callable[..., Tensor]) -> float:
    """What a micro-batch's penalty is divided by, so that a step has the mean of them.

    Args:
        name: of `REGULARIZERS`.
        batches: this process's micro-batches of the step; some may hold no example.
        reduce: a tensor over the processes, which average their gradients.
    """
    if name != "bss":  # a penalty on the weights, in every micro-batch alike
        return float(len(batches))
    full = sum((batch["labels"] != -100).any() for batch in batches)
    return float(reduce(torch.as_tensor(full).float(), "mean")) or 1.0


def batch_spectral_shrinkage(model: Any, weight: float) -> Penalty:
    """The smallest singular value, squared, of the batch's features (Chen et al., NeurIPS 2019).

    The feature of an example is the mean of its last hidden states where a label is predicted.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    last: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        last[:] = [output.last_hidden_state]

    whole.base_model.register_forward_hook(keep)

    def of_batch(labels: Tensor) -> Tensor:
        hidden = last.pop()[:, :-1].float()  # (batch, tokens - 1, hidden)
        asked = (labels[:, 1:] != -100).unsqueeze(2)
        features = (hidden * asked).sum(1) / asked.sum(1).clamp(min=1)  # (batch, hidden)
        return weight * torch.linalg.svdvals(features)[-1] ** 2

    return of_batch


def distance_to_start(model: Any, weight: float, importance: dict[str, Tensor]) -> Penalty:
    """Half the squared distance to where training starts.

    Without importance that is L2-SP (Li et al., ICML 2018), with the Fisher information of the base
    knowledge EWC (Kirkpatrick et al., PNAS 2017). Keeps a copy of the weights.

    Args:
        model: its trained weights now are the start.
        weight: of the penalty.
        importance: for each weight tensor by name, factors of the same shape; tensors not named do
            not count. Empty: all weights alike.
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
