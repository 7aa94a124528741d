"""Which weight matrices of a model are scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from letgo.data.tokens import batches_by_tokens
from letgo.errors import InputError
from letgo.progress import log


@dataclass(frozen=True)
class Weights:
    """The weights that are scored.

    Attributes:
        layers: linear layers, by name; their gradients come from hooks.
        others: matrices that no layer alone multiplies with all tokens, once (experts, routers,
            convolutions, state-space parameters), by name; their gradients come from autograd, so
            that there can be only one text in a batch.
        shapes: (out, in) of every matrix, by name; an expert is "NAME[i]".
    """

    layers: dict[str, nn.Module]
    others: dict[str, nn.Parameter]
    shapes: dict[str, tuple[int, int]]

    def batches(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Batches of at most `budget` tokens (`data.batches_by_tokens`)."""
        return batches_by_tokens(lengths, 1 if self.others else budget)

    def layers_only(self) -> "Weights":
        """Without the matrices that cost a batch of their own for every text."""
        return self.restricted(set(self.layers))

    def restricted(self, names: set[str]) -> "Weights":
        """Only the matrices of these names, and the parameters they are part of."""
        return Weights(
            {name: layer for name, layer in self.layers.items() if name in names},
            {
                name: p
                for name, p in self.others.items()
                if any(n == name or n.startswith(f"{name}[") for n in names)
            },
            {name: shape for name, shape in self.shapes.items() if name in names},
        )


def scored_weights(model: Any) -> Weights:
    """All weight matrices of a model but the embeddings, and what is left out said in the log.

    An output layer tied to the input embeddings is left out: its weight also acts at the input,
    where no hook on a linear layer sees it, so half a gradient would be counted as a whole one.
    Embeddings and vectors (norms, biases) are left out too.

    Raises:
        InputError: the model has no linear layer.
    """
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    left_out = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    called = _called_once(model)
    layers: dict[str, nn.Module] = {}
    others: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and ".lora_" not in name:
            if id(module.weight) not in left_out:
                hooked = name in called
                (layers if hooked else others)[name.removesuffix(".base_layer")] = (
                    module if hooked else module.weight  # type: ignore[assignment]
                )
            left_out.add(id(module.weight))
    others |= {
        name: p
        for name, p in model.named_parameters()
        if p.ndim >= 2 and id(p) not in left_out and ".lora_" not in name
    }
    if not layers:
        raise InputError(
            "--model: no linear layers (torch.nn.Linear) to score in this architecture"
        )
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    for name, parameter in others.items():
        shapes |= {n: (m.shape[0], m.shape[1]) for n, m in matrices(name, parameter)}
    log.info(
        "%d weight matrices, %.1f million weights%s",
        len(shapes),
        sum(out * into for out, into in shapes.values()) / 1e6,
        "; the output layer shares its weight with the embeddings and is left out" if tied else "",
    )
    if others:
        log.warning(
            "%s and %d more are not ordinary linear layers: texts are scored one at a time",
            next(iter(others)),
            len(others) - 1,
        )
    return Weights(layers, others, shapes)


def trained_weights(model: Any) -> Weights:
    """The linear layers that training moves, an adapter's own among them; others do not count.

    Raises:
        InputError: there is none.
    """
    called = _called_once(model)
    tied = id(model.get_input_embeddings().weight)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name in called
        and module.weight.requires_grad
        and id(module.weight) != tied
    }
    if not layers:
        raise InputError("--rescore_interval: no linear layer is trained, so no text can be scored")
    return Weights(layers, {}, {name: shape_of(layer) for name, layer in layers.items()})


def _called_once(model: Any) -> set[str]:
    """The linear layers that a pass calls once, with all tokens of all texts.

    Not so the others: a layer whose weight is used behind its back, one that is used twice, or one
    that sees some tokens only (an expert). Hooks would miss some of their gradient.
    """
    texts, tokens = 2, 6
    sizes: dict[str, list[int]] = {}
    handles = [
        module.register_forward_hook(
            lambda _, inputs, __, name=name: sizes.setdefault(name, []).append(
                inputs[0].numel() // inputs[0].shape[-1]
            )
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    # With a graph, as later: without one a quantized layer repacks itself for inference for good.
    handles.append(model.get_input_embeddings().register_forward_hook(_start_graph))
    training = model.training
    model.eval()
    ids = torch.arange(texts * tokens, device=model.device).view(texts, tokens)
    try:
        with torch.enable_grad():
            model(input_ids=ids % model.config.get_text_config().vocab_size, use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {name for name, seen in sizes.items() if seen == [texts * tokens]}


def shape_of(layer: Any) -> tuple[int, int]:
    """(out, in) of a linear layer, quantized or not."""
    if isinstance(layer, Conv1D):  # GPT-2's, which keeps its weight as (in, out)
        return layer.weight.shape[1], layer.weight.shape[0]
    return layer.out_features, layer.in_features


def matrices(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter of `Weights.others`, or its gradient, as matrices (out, in)."""
    if tensor.ndim == 3 and min(tensor.shape) > 1:  # fused experts
        for index, matrix in enumerate(tensor):
            yield f"{name}[{index}]", matrix
    else:
        yield name, tensor.flatten(1)  # a convolution: (channels, kernel)


def values(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Every matrix (out, in) by name, as it is in the model."""
    layer: Any
    for name, layer in weights.layers.items():
        weight = layer.weight.detach()
        yield name, weight.T if isinstance(layer, Conv1D) else weight
    for name, parameter in weights.others.items():
        yield from matrices(name, parameter.detach())


def keep_in_bfloat16(weights: Weights) -> None:
    """Round the layers' weights once, as autocast would for every batch anew.

    For a model that is only looked at, and only under autocast: nothing that it computes changes.
    """
    layer: Any
    for layer in weights.layers.values():
        if layer.weight.dtype == torch.float32:  # a quantized layer keeps its own
            layer.weight.data = layer.weight.data.bfloat16()


def _start_graph(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Frozen weights start no graph; the embeddings' output does."""
    return output if output.requires_grad else output.requires_grad_(True)
