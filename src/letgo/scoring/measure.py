"""The numbers of texts that scores are computed from, in one backward pass per batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from letgo.models.inference import Batch, LanguageModel, Row
from letgo.scoring import products
from letgo.scoring.fisher import Information
from letgo.scoring.gradients import finite_batch, per_example
from letgo.scoring.weights import Weights

# A product of one matrix's gradients: name, a: (batch, tokens, in), g: (batch, tokens, out).
Product = Callable[[str, Tensor, Tensor], Tensor]


def along(direction: Mapping[str, Tensor]) -> Product:
    """`<v, G_i>`; v: (out, in) per matrix, in the dtype of the backward pass."""
    return lambda name, a, g: products.inner(a, g, direction[name].to(g.dtype))


def fisher_norms(fisher: Mapping[str, Information]) -> Product:
    """`<G_i, F G_i>`."""
    return lambda name, a, g: fisher[name].norms(a, g)


def plain_norms(name: str, a: Tensor, g: Tensor) -> Tensor:
    """`<G_i, G_i>`."""
    return products.norms(a, g, None, None)


def gradient_products(
    model: PreTrainedModel,
    weights: Weights,
    batch: Batch,
    wanted: Mapping[str, Product],
    bf16: bool = False,
    shares: tuple[str, dict[str, float]] | None = None,
) -> dict[str, Tensor]:
    """Loss and products of each example's gradient, summed over all matrices.

    Args:
        model: at the weights where gradients are taken, in evaluation mode.
        weights: the matrices.
        batch: (batch, tokens), padded, prompts masked.
        wanted: products by name.
        bf16: compute forward and backward in bfloat16.
        shares: name of a product, and a mapping that collects each matrix's part in it.

    Returns:
        "loss" and one entry per product, each (batch,) float64 on the CPU.
    """
    labels = batch.labels
    sums = {name: torch.zeros(len(labels), device=labels.device) for name in wanted}

    def use(name: str, a: Tensor, g: Tensor) -> None:
        for key, product in wanted.items():
            part = product(name, a, g)
            sums[key] += part
            if shares and key == shares[0]:
                shares[1][name] = shares[1].get(name, 0.0) + float(part.abs().sum())

    losses = per_example(model, weights, batch, use, bf16)
    return {key: value.double().cpu() for key, value in {"loss": losses, **sums}.items()}


def summed_gradient(
    lm: LanguageModel, weights: Weights, rows: Sequence[Row], batches: Iterable[list[int]]
) -> tuple[dict[str, Tensor], list[int]]:
    """The sum of the gradients of examples at the model's weights.

    The batches are lists of indices into `rows`; the result does not depend on the batching.

    Returns:
        (out, in) float32 per matrix, and the indices of examples left out for a non-finite loss.
    """
    device = next(lm.model.parameters()).device
    total = {name: torch.zeros(shape, device=device) for name, shape in weights.shapes.items()}

    def add(name: str, a: Tensor, g: Tensor) -> None:
        total[name] += products.summed(a, g)

    def work(batch: Batch) -> Tensor:
        return per_example(lm.model, weights, batch, add, lm.bf16)

    left_out = [i for batch in batches for i in finite_batch(lm, rows, batch, work)[2]]
    return total, left_out
