"""What every weight's per-example gradient is made of, by hooks, in one backward pass.

All weights are frozen meanwhile: the backward pass goes to the activations only, and autograd forms
no weight gradients. What happens with `a` and `g` is in `products.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from letgo.errors import InputError
from letgo.models.inference import Batch, autocast, example_losses, pad_rows
from letgo.scoring.weights import (
    Weights,
    _start_graph,
    matrices,
)

# Called with a name, a: (batch, tokens, in) and g: (batch, tokens, out) of the same dtype.
Use = Callable[[str, Tensor, Tensor], None]


class NonFinite(Exception):
    """Examples with an infinite or undefined loss."""

    def __init__(self, places: list[int]):
        super().__init__(places)
        self.places = places


def per_example(model: Any, weights: Weights, batch: Batch, use: Use, bf16: bool = False) -> Tensor:
    """One forward and backward pass; `use` sees every weight matrix once.

    Args:
        model: a causal language model; examples are the first dimension of its batches.
        weights: what to look at.
        batch: (batch, tokens), padded, prompts masked; one example where `weights.others`.
        use: see `Use`; what it does with one example must not depend on the others.
        bf16: compute forward and backward in bfloat16.

    Returns:
        each example's mean NLL, (batch,) float32.

    Raises:
        NonFinite: an example's loss is infinite or undefined; `use` has seen nothing then.
        InputError: a layer does not keep the examples of a batch apart.
    """
    with _frozen(model, weights), _hooks(weights, len(batch.labels), use):
        with autocast(bf16):
            losses = example_losses(model, batch)
        if not losses.isfinite().all():
            raise NonFinite((~losses.isfinite()).nonzero().flatten().tolist())
        # A sum, not a mean: an example's gradient must not depend on how many others there are.
        torch.autograd.backward(losses.sum())
        for name, parameter in weights.others.items():
            if parameter.grad is None:
                continue
            for part, gradient in matrices(name, parameter.grad):
                if part in weights.shapes and gradient.any():
                    # As if a layer had seen one unit vector per column.
                    unit = torch.eye(gradient.shape[1], device=gradient.device)
                    use(part, unit[None], gradient.float().T[None])
            parameter.grad = None
    return losses.detach()


@contextmanager
def _hooks(weights: Weights, size: int, use: Use) -> Iterator[None]:
    seen: set[str] = set()

    def forward_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            a = inputs[0].detach()
            if a.numel() % (size * a.shape[-1]) or a.shape[0] % size:
                raise InputError(
                    f"--model: the layer {name} does not keep the texts of a batch apart; this "
                    f"architecture cannot be scored"
                )

            def backward_hook(g: Tensor) -> None:
                if name in seen:  # its gradient is a sum, and norms of sums do not add up
                    raise InputError(
                        f"--model: the layer {name} is used twice in one pass; this "
                        f"architecture cannot be scored"
                    )
                seen.add(name)
                # Some layers see the texts of a batch one after the other, as (batch * tokens, in).
                use(
                    name,
                    a.reshape(size, -1, a.shape[-1]).to(g.dtype),
                    g.reshape(size, -1, g.shape[-1]),
                )

            if output.requires_grad:
                output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

        return hook

    handles = [layer.register_forward_hook(forward_hook(n)) for n, layer in weights.layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: Any, weights: Weights) -> Iterator[None]:
    """Nothing but `weights.others` requires a gradient; the graph starts at the embeddings."""
    wanted = {id(p) for p in weights.others.values()}
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
        parameter.grad = None
    handle = model.get_input_embeddings().register_forward_hook(_start_graph)
    try:
        yield
    finally:
        handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def finite_batch(
    rows: Sequence[dict[str, list[int]]],
    places: list[int],
    pad_token_id: int,
    work: Callable[[Batch], Any],
) -> tuple[list[int], Any, list[int]]:
    """`work` on a batch without the examples whose loss is not a finite number.

    Args:
        rows: `data.training_row`s.
        places: the batch, as indices into them.
        pad_token_id: for padding.
        work: calls `per_example`.

    Returns:
        (indices that were worked on, what came out, indices that were left out); what came out is
        None where nothing was left.
    """
    left_out: list[int] = []
    while places:
        try:
            return places, work(pad_rows([rows[i] for i in places], pad_token_id)), left_out
        except NonFinite as error:
            bad = {places[place] for place in error.places}
            left_out += sorted(bad)
            places = [i for i in places if i not in bad]
    return [], None, left_out
