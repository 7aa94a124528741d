"""All products of per-example gradients; at most one gradient is in memory at a time.

For a linear layer `y = a W^T` the gradient of example i's loss is `G_i = g_i^T a_i` (out, in), with
`a_i` (tokens, in) the layer's input and `g_i` (tokens, out) the gradient of its output. The
products of an example do not depend on the rest of its batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def gradients(a: Tensor, g: Tensor) -> Iterator[Tensor]:
    """Each `G_i` in turn, (out, in) float32; the caller may overwrite it.

    Args:
        a: (batch, tokens, in).
        g: (batch, tokens, out), of the same dtype.
    """
    for a_i, g_i in zip(a, g, strict=True):
        yield (g_i.T @ a_i).float()


def summed(a: Tensor, g: Tensor) -> Tensor:
    """The sum of all `G_i`, (out, in) float32."""
    return (g.flatten(0, 1).T @ a.flatten(0, 1)).float()


def inner(a: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """`<v, G_i> = sum_t g_t . (v a_t)`, as cheap as the layer's forward pass; (batch,) float32.

    Args:
        a: (batch, tokens, in).
        g: (batch, tokens, out).
        v: (out, in), of the same dtype.
    """
    return torch.sum((a @ v.T) * g, (1, 2), dtype=torch.float32)


def norms(a: Tensor, g: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """`tr(left G_i right G_i^T)` without forming G_i (the ghost norm identity); (batch,) float32.

        sum_{t,s} (g_t . left g_s) (a_t . right a_s)

    Args:
        a: (batch, tokens, in).
        g: (batch, tokens, out).
        left: a diagonal (out,), a symmetric matrix (out, out), or None for the identity.
        right: the same for (in,).
    """
    between_g = torch.bmm(_times(g, left), g.transpose(1, 2)).float()  # (batch, tokens, tokens)
    between_a = torch.bmm(_times(a, right), a.transpose(1, 2)).float()
    return (between_g * between_a).sum((1, 2))


def row_sums(a: Tensor, g: Tensor) -> Tensor:
    """Sum over examples and columns of `G_i^2`, without forming G_i: (out,) float32."""
    between = torch.bmm(a, a.transpose(1, 2))  # (batch, tokens, tokens)
    return torch.sum(torch.bmm(between, g) * g, (0, 1), dtype=torch.float32)


def _times(x: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return x
    scale = scale.to(x.dtype)
    return x * scale if scale.ndim == 1 else x @ scale
