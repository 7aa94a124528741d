"""Fisher information of one weight matrix, in three forms with one interface.

Each is a mean over examples, made of per-example gradients `G` (out, in) before they are averaged:
the square of a batch's mean gradient would be too small by about the square of the batch size. What
a kind needs is what its `add` and `norms` use of `products`: only `Diagonal` forms gradients.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from letgo.errors import InputError
from letgo.models.inference import Batch, autocast
from letgo.scoring import products
from letgo.scoring.gradients import finite_batch, per_example
from letgo.scoring.weights import Weights

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


def save(file: Path, found: dict[str, Information], metadata: dict[str, str]) -> None:
    """Write the Fisher information of all matrices as "NAME.PART"."""
    tensors = {
        f"{name}.{part}": tensor.contiguous().cpu()
        for name, matrix in found.items()
        for part, tensor in matrix.tensors.items()
    }
    save_file(tensors, file, metadata=metadata)


def load(file: Path, weights: Weights, model: str, device: torch.device) -> dict[str, Information]:
    """Read the Fisher information of all matrices.

    Args:
        file: as `save` writes it.
        weights: the matrices it must be of.
        model: fingerprint of the model it must be of.
        device: where to.

    Raises:
        InputError: it is of another model.
    """
    with safe_open(file, "pt", device=str(device)) as stored:
        metadata = stored.metadata() or {}
        kind = KINDS.get(metadata.get("kind", ""))
        names = set(stored.keys())
        if kind is None or metadata.get("model") != model:
            raise InputError(
                f"{file} is of another model ({metadata.get('model')}, not {model}); remove it and "
                f"run `letgo fisher` again"
            )
        found: dict[str, Information] = {}
        for name, (out, into) in weights.shapes.items():
            expected = kind.zeros(out, into, torch.device("meta")).tensors
            tensors = {
                part: stored.get_tensor(f"{name}.{part}")
                for part in expected
                if f"{name}.{part}" in names
            }
            if any(
                part not in tensors or tensors[part].shape != like.shape
                for part, like in expected.items()
            ):
                raise InputError(
                    f"{file} has no Fisher information of {name} with {out} x {into} weights: it "
                    f"is of another model; remove it and run `letgo fisher` again"
                )
            found[name] = kind(tensors)
    return found


def estimate(
    kind: str,
    model: Any,
    weights: Weights,
    rows: Sequence[dict[str, list[int]]],
    batches: Iterable[list[int]],
    pad_token_id: int,
    bf16: bool = False,
    relabel: Callable[[Batch], Batch] | None = None,
) -> tuple[dict[str, Information], list[int]]:
    """The Fisher information of every matrix, a mean over examples.

    Args:
        kind: one of `information.KINDS`.
        model: in evaluation mode.
        weights: which matrices.
        rows: `data.training_row`s.
        batches: lists of indices into them; how they are cut does not change the result.
        pad_token_id: for padding batches.
        bf16: compute forward and backward in bfloat16.
        relabel: gives a batch other labels (`sampled_labels`); the data's own if None.

    Returns:
        the information by matrix, and the indices of examples without a finite loss, left out.

    Raises:
        InputError: the information is not finite although all losses are.
    """
    device = next(model.parameters()).device
    found: dict[str, Information] = {
        name: KINDS[kind].zeros(out, into, device) for name, (out, into) in weights.shapes.items()
    }

    def add(batch: Batch) -> Tensor:
        batch = relabel(batch) if relabel else batch
        return per_example(model, weights, batch, lambda name, a, g: found[name].add(a, g), bf16)

    left_out: list[int] = []
    for batch in batches:
        left_out += finite_batch(rows, batch, pad_token_id, add)[2]
    for name, matrix in found.items():
        matrix.divide(max(1, len(rows) - len(left_out)))
        if not all(tensor.isfinite().all() for tensor in matrix.tensors.values()):
            raise InputError(
                f"--learning_rate: the Fisher information of {name} is not finite; lower it and "
                f"make probe/ again, or give --bf16 false"
            )
    return found, left_out


def sampled_labels(model: Any, seed: int, bf16: bool) -> Callable[[Batch], Batch]:
    """Labels drawn from the model's own predictions: the Fisher information proper.

    Every token to be predicted is drawn given the data's tokens before it. With the data's labels
    (`empirical`) it is the second moment of the gradients instead (arXiv 1905.12558).
    """

    @torch.no_grad()
    def relabel(batch: Batch) -> Batch:
        with autocast(bf16):
            logits = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[:, :-1]
        labels = batch.labels.clone()
        for i, row in enumerate(labels):
            # Drawn from a seed of the example's own, so that it does not matter who else is there.
            own = hash((seed, *batch.input_ids[i][batch.attention_mask[i].bool()].tolist()))
            generator = torch.Generator(logits.device).manual_seed(own & (2**63 - 1))
            asked = row[1:] != -100
            drawn = torch.multinomial(logits[i][asked].float().softmax(1), 1, generator=generator)
            row[1:][asked] = drawn[:, 0]
        return batch._replace(labels=labels)

    return relabel
