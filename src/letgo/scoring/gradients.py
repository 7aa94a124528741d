"""The factors `a` and `g` of every per-example gradient, by hooks, in one backward pass.

All weights are frozen during the pass: it computes gradients of activations only, and autograd
forms no weight gradients. `products.py` says what `a` and `g` are and computes with them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from letgo.errors import InputError
from letgo.models.inference import Batch, LanguageModel, Row, autocast, example_losses
from letgo.scoring.weights import Weights, matrices, require_output_grad

UNSUITABLE = "so this architecture cannot be scored; choose another model"
# Called with a matrix's name, a: (batch, tokens, in) and g: (batch, tokens, out), of one dtype.
Use = Callable[[str, Tensor, Tensor], None]


class NonFinite(Exception):
    """The loss of some examples is infinite or undefined; `indices`: where in the batch."""

    def __init__(self, indices: list[int]):
        super().__init__(indices)
        self.indices = indices


def per_example(model: Any, weights: Weights, batch: Batch, use: Use, bf16: bool = False) -> Tensor:
    """One forward and backward pass that calls `use` once for every weight matrix.

    Args:
        model: a causal language model.
        weights: the matrices whose gradients are wanted.
        batch: (batch, tokens), padded, prompts masked; a single example if `weights.others`.
        use: see `Use`; it must treat every example independently of the others.
        bf16: compute forward and backward in bfloat16.

    Returns:
        the mean NLL of each example, (batch,) float32.

    Raises:
        NonFinite: an example's loss is infinite or undefined; `use` was not called.
        InputError: a layer mixes the examples of a batch, or runs twice in a pass.
    """
    with _frozen(model, weights), _hooks(weights, len(batch.labels), use):
        with autocast(bf16):
            losses = example_losses(model, batch)
        if not losses.isfinite().all():
            raise NonFinite((~losses.isfinite()).nonzero().flatten().tolist())
        # A sum, not a mean: an example's gradient must not depend on the size of the batch.
        torch.autograd.backward(losses.sum())
        for name, parameter in weights.others.items():
            if parameter.grad is None:
                continue
            for part, gradient in matrices(name, parameter.grad):
                if part in weights.shapes and gradient.any():
                    # G = g^T a with a the identity: one "token" per column.
                    unit = torch.eye(gradient.shape[1], device=gradient.device)
                    use(part, unit[None], gradient.float().T[None])
            parameter.grad = None
    return losses.detach()


@contextmanager
def _hooks(weights: Weights, size: int, use: Use) -> Iterator[None]:
    """Hooks on all layers that call `use` in the backward pass of a batch of `size` examples."""
    seen: set[str] = set()

    def hook(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a = inputs[0].detach()
        if a.numel() % (size * a.shape[-1]) or a.shape[0] % size:
            raise InputError(f"--model: the layer {name} mixes the texts of a batch, {UNSUITABLE}")

        def backward_hook(g: Tensor) -> None:
            if name in seen:  # the norm of a sum of gradients is not the sum of norms
                raise InputError(f"--model: the layer {name} runs twice in one pass, {UNSUITABLE}")
            seen.add(name)
            # Some layers take the tokens of all texts in one dimension: (batch * tokens, in).
            by_text = a.reshape(size, -1, a.shape[-1]).to(g.dtype)
            use(name, by_text, g.reshape(size, -1, g.shape[-1]))

        if output.requires_grad:
            output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

    handles = [layer.register_forward_hook(partial(hook, n)) for n, layer in weights.layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(model: Any, weights: Weights) -> Iterator[None]:
    """Only `weights.others` require gradients, and the graph starts at the embeddings' output."""
    others = {id(p) for p in weights.others.values()}
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(id(parameter) in others)
        parameter.grad = None
    handle = model.get_input_embeddings().register_forward_hook(require_output_grad)
    try:
        yield
    finally:
        handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def finite_batch(
    lm: LanguageModel, rows: Sequence[Row], indices: list[int], work: Callable[[Batch], object]
) -> tuple[list[int], Any, list[int]]:
    """The result of `work` on a batch, without the examples whose loss is not finite.

    The batch is padded by `lm` and consists of indices into `rows`; `work` calls `per_example`.

    Returns:
        the indices of the examples that were used, the result of `work` (None if there are none),
        and the indices of those left out.
    """
    left_out: list[int] = []
    while indices:
        try:
            return indices, work(lm.pad([rows[i] for i in indices])), left_out
        except NonFinite as error:
            bad = {indices[i] for i in error.indices}
            left_out += sorted(bad)
            indices = [i for i in indices if i not in bad]
    return [], None, left_out
