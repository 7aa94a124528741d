"""Fisher information of one weight matrix, in three forms with one interface.

Each is a mean over examples, made of per-example gradients `G` (out, in) before they are averaged:
the square of a batch's mean gradient would be too small by about the square of the batch size. What
a kind needs is what its `add` and `norms` use of `products`: only `Diagonal` forms gradients.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from letgo.confidence import products

EPS = 1e-8  # AdamW's


class Information(Protocol):
    """The Fisher information of one weight matrix, or its running sum."""

    tensors: dict[str, Tensor]

    def add(self, a: Tensor, g: Tensor) -> None:
        """Add a batch of examples, a: (batch, tokens, in), g: (batch, tokens, out)."""

    def divide(self, examples: int) -> None:
        """Make a sum over examples a mean."""

    def times(self, v: Tensor) -> Tensor:
        """`F v` for v: (out, in)."""

    def precondition(self, v: Tensor) -> Tensor:
        """`(sqrt(F) + eps)^-1 v` for v: (out, in), the direction of an AdamW step."""

    def norms(self, a: Tensor, g: Tensor) -> Tensor:
        """`<G_i, F G_i>` of every example, (batch,) float32."""


class Diagonal:
    """The mean of `G^2`, exactly: (out, in) numbers."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    @classmethod
    def zeros(cls, out: int, into: int, device: torch.device) -> "Diagonal":
        return cls({"diagonal": torch.zeros(out, into, device=device)})

    def add(self, a: Tensor, g: Tensor) -> None:
        for gradient in products.gradients(a, g):
            self.tensors["diagonal"].addcmul_(gradient, gradient)

    def divide(self, examples: int) -> None:
        self.tensors["diagonal"] /= examples

    def times(self, v: Tensor) -> Tensor:
        return v * self.tensors["diagonal"]

    def precondition(self, v: Tensor) -> Tensor:
        return v / (self.tensors["diagonal"].sqrt() + EPS)

    def norms(self, a: Tensor, g: Tensor) -> Tensor:
        flat = self.tensors["diagonal"].flatten()
        return torch.stack(
            [torch.dot(flat, gradient.square_().flatten()) for gradient in products.gradients(a, g)]
        )


class Factored:
    """The diagonal's best product of a column and a row (in KL divergence): out + in numbers.

        F ~ rows columns^T / sum(F)     rows, columns: sums of the diagonal

    as in Adafactor (arXiv 1804.04235). The sums come by the ghost identity; no gradient is formed.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    @classmethod
    def zeros(cls, out: int, into: int, device: torch.device) -> "Factored":
        return cls(
            {"rows": torch.zeros(out, device=device), "columns": torch.zeros(into, device=device)}
        )

    def add(self, a: Tensor, g: Tensor) -> None:
        self.tensors["rows"] += products.row_sums(a, g)
        self.tensors["columns"] += products.row_sums(g, a)

    def divide(self, examples: int) -> None:
        self.tensors["rows"] /= examples
        self.tensors["columns"] /= examples

    def _factors(self) -> tuple[Tensor, Tensor]:
        # Both of about the same size: their squares must not leave the range of bfloat16.
        rows, columns = self.tensors["rows"], self.tensors["columns"]
        root = rows.sum().clamp(min=torch.finfo(rows.dtype).tiny).sqrt()
        return rows / root, columns / root

    def times(self, v: Tensor) -> Tensor:
        rows, columns = self._factors()
        return v * rows[:, None] * columns

    def precondition(self, v: Tensor) -> Tensor:
        rows, columns = self._factors()
        return v / (rows.sqrt()[:, None] * columns.sqrt() + EPS)

    def norms(self, a: Tensor, g: Tensor) -> Tensor:
        return products.norms(a, g, *self._factors())


class Kronecker:
    """K-FAC (arXiv 1503.05671): the mean outer products of `g` and of `a`, out^2 + in^2 numbers.

        F ~ left (x) right     left = mean_examples sum_tokens g g^T
                               right = sum_tokens |g|^2 a a^T / sum_tokens |g|^2

    Unlike the other two it is not diagonal; tokens of an example count as independent. The weights
    |g|^2 keep out positions without a gradient (padding) and make the trace that of all tokens.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    @classmethod
    def zeros(cls, out: int, into: int, device: torch.device) -> "Kronecker":
        return cls(
            {
                "left": torch.zeros(out, out, device=device),
                "right": torch.zeros(into, into, device=device),
                "weight": torch.zeros(1, device=device),
            }
        )

    def add(self, a: Tensor, g: Tensor) -> None:
        g, a = g.flatten(0, 1), a.flatten(0, 1)
        weight = g.float().square().sum(1)  # (batch * tokens,)
        self.tensors["left"] += g.T @ g
        self.tensors["right"] += (a * weight[:, None].to(a.dtype)).T @ a
        self.tensors["weight"] += weight.sum()

    def divide(self, examples: int) -> None:
        self.tensors["left"] /= examples
        self.tensors["right"] /= self.tensors["weight"].clamp(min=torch.finfo(torch.float32).tiny)

    def times(self, v: Tensor) -> Tensor:
        return self.tensors["left"] @ v @ self.tensors["right"]

    def precondition(self, v: Tensor) -> Tensor:
        return _inverse_root(self.tensors["left"]) @ v @ _inverse_root(self.tensors["right"])

    def norms(self, a: Tensor, g: Tensor) -> Tensor:
        return products.norms(a, g, self.tensors["left"], self.tensors["right"])


def _inverse_root(matrix: Tensor) -> Tensor:
    """`matrix^-1/2` of a positive semi-definite matrix, damped."""
    eigenvalues, vectors = torch.linalg.eigh(matrix.float())
    return (vectors / (eigenvalues.clamp(min=0).sqrt() + EPS**0.5)) @ vectors.T


KINDS: Mapping[str, type[Diagonal] | type[Factored] | type[Kronecker]] = {
    "diagonal": Diagonal,
    "factored": Factored,
    "kfac": Kronecker,
}
