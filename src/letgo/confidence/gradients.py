"""Per-example gradients of the linear layers by hooks, with all weights frozen.

For a linear layer `y = a W^T` the gradient of example i's loss is `G_i = g_i^T a_i`, with `a_i`
(tokens, in) what went into the layer and `g_i` (tokens, out) the gradient of what came out. One
backward pass to the activations gives `a` and `g` of the whole batch; examples do not mix, so
`G_i` is the same whatever else is in the batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from letgo.errors import InputError
from letgo.progress import log


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The linear layers whose weights are scored, by name.

    An output layer tied to the input embeddings is left out: its weight also acts at the input,
    where no hook on a linear layer sees it, so half a gradient would be counted as a whole one.

    Raises:
        InputError: the model has no such layer.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not (tied and module is head)
    }
    if not layers:
        raise InputError(
            "--model: no linear layers to score (torch.nn.Linear) in this architecture"
        )
    log.info("%d linear layers, %.1f million weights%s", len(layers),
             sum(layer.weight.numel() for layer in layers.values()) / 1e6,
             "; the output layer shares its weight with the embeddings and is left out"
             if tied else "")  # fmt: skip
    return layers


@contextmanager
def per_example_gradients(
    model: Any, layers: dict[str, nn.Linear], use: Callable[[str, int, Tensor], None]
) -> Iterator[None]:
    """While open, hand every example's gradient of every layer to `use` during backward.

    Weights are frozen meanwhile, so that autograd forms no weight gradients of its own; only one
    example's gradient of one layer exists at a time.

    Args:
        model: a causal language model; examples are the first dimension of its batches.
        layers: the layers to look at, by name.
        use: called with the layer's name, the example's index in the batch and its gradient
            (out, in) float32, which it may overwrite. Must be called on a sum of per-example
            losses, never on a mean.
    """

    def forward_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            a = inputs[0].detach()  # (batch, tokens, in)
            if a.ndim != 3:
                raise InputError(
                    f"--model: the layer {name} does not see (batch, tokens, features); this "
                    f"architecture cannot be scored"
                )

            def backward_hook(g: Tensor) -> None:  # g: (batch, tokens, out)
                for i in range(g.shape[0]):
                    use(name, i, g[i].float().T @ a[i].float())

            if output.requires_grad:
                output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

        return hook

    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    handles = [layer.register_forward_hook(forward_hook(name)) for name, layer in layers.items()]
    # With frozen weights the graph must start somewhere: at the embeddings' output.
    handles.append(
        model.get_input_embeddings().register_forward_hook(
            lambda _module, _inputs, output: output.requires_grad_(True)
        )
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
