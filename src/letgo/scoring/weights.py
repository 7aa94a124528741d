"""The choice of the weight matrices whose gradients are scored."""

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
    """The weight matrices that are scored.

    Attributes:
        layers: linear layers by name; hooks give their gradients.
        others: all other weights by name: experts, routers, convolutions, state-space parameters
            and linear layers that do not process every token exactly once. Autograd gives their
            gradients, so a batch can have only one text.
        shapes: (out, in) of every matrix by name; an expert's name is "NAME[i]".
    """

    layers: dict[str, nn.Module]
    others: dict[str, nn.Parameter]
    shapes: dict[str, tuple[int, int]]

    def batches(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Batches of at most `budget` tokens, or of one text each if there are `others`."""
        return batches_by_tokens(lengths, 1 if self.others else budget)

    def layers_only(self) -> "Weights":
        """The linear layers alone, so that a batch may have several texts."""
        return self.restricted(set(self.layers))

    def restricted(self, names: set[str]) -> "Weights":
        """The matrices with these names only, and the parameters that contain them."""
        parameters = {name.partition("[")[0] for name in names}  # "experts" of "experts[3]"
        return Weights(
            {name: layer for name, layer in self.layers.items() if name in names},
            {name: p for name, p in self.others.items() if name in parameters},
            {name: shape for name, shape in self.shapes.items() if name in names},
        )


def scored_weights(model: Any) -> Weights:
    """All weight matrices of a model except the embeddings; logs what is left out.

    An output layer that is tied to the input embeddings is left out too: a hook on it misses the
    part of the gradient from the input. Vectors (norms, biases) are left out.

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
        raise InputError("--model: no linear layer (torch.nn.Linear) to score in this architecture")
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    for name, parameter in others.items():
        shapes |= {n: (m.shape[0], m.shape[1]) for n, m in matrices(name, parameter)}
    millions = sum(rows * columns for rows, columns in shapes.values()) / 1e6
    note = "; the output layer is left out: it shares its weight with the embeddings"
    message = "%d weight matrices, %.1f million weights%s"
    log.info(message, len(shapes), millions, note if tied else "")
    if others:
        message = "%s and %d more are not ordinary linear layers, so texts are scored one at a time"
        log.warning(message, next(iter(others)), len(others) - 1)
    return Weights(layers, others, shapes)


def trained_weights(model: Any) -> Weights:
    """The linear layers that are trained, including those of an adapter.

    Raises:
        InputError: no linear layer is trained.
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
    """The linear layers that process all tokens of all texts exactly once in a forward pass.

    For the others hooks would miss a part of the gradient: layers that run twice, that see some
    tokens only (experts), or whose weight is used without calling the layer.
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
    # With a graph: without one, a quantized layer repacks its weights for inference, permanently.
    handles.append(model.get_input_embeddings().register_forward_hook(require_output_grad))
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
    """(out, in) of a linear layer, also of a quantized one."""
    if isinstance(layer, Conv1D):  # in GPT-2; its weight is (in, out)
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


def require_output_grad(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Make the embeddings' output require a gradient: frozen weights would start no graph."""
    return output if output.requires_grad else output.requires_grad_(True)
