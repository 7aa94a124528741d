"""Fisher information of the weight matrices: three approximations with one interface.

Each is a mean over examples of a product of the per-example gradient `G` (out, in) with itself. The
square of a batch's mean gradient would be too small, by a factor of about the square of the batch
size. Only `Diagonal` forms gradients; the other two use `a` and `g` (see `products.py`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from letgo.errors import InputError
from letgo.models.inference import Batch, LanguageModel, Row, autocast
from letgo.scoring import products
from letgo.scoring.gradients import finite_batch, per_example
from letgo.scoring.weights import Weights

EPS = 1e-8  # AdamW's


class Information(Protocol):
    """The Fisher information of one weight matrix, or its running sum."""

    tensors: dict[str, Tensor]

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    @classmethod
    def zeros(cls, out_size: int, in_size: int, device: torch.device) -> Self:
        """The running sum over no examples."""

    def add(self, a: Tensor, g: Tensor) -> None:
        """Add a batch of examples, a: (batch, tokens, in), g: (batch, tokens, out)."""

    def divide(self, examples: int) -> None:
        """Turn the sum over examples into the mean."""

    def times(self, v: Tensor) -> Tensor:
        """`F v` for v: (out, in)."""

    def precondition(self, v: Tensor) -> Tensor:
        """`(sqrt(F) + eps)^-1 v` for v: (out, in), the direction of an AdamW update."""

    def norms(self, a: Tensor, g: Tensor) -> Tensor:
        """`<G_i, F G_i>` of every example of a batch, (batch,) float32."""


class Diagonal(Information):
    """The diagonal of the Fisher information, the mean of `G^2`: out * in numbers."""

    @classmethod
    def zeros(cls, out_size: int, in_size: int, device: torch.device) -> "Diagonal":
        return cls({"diagonal": torch.zeros(out_size, in_size, device=device)})

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
        squares = (gradient.square_().flatten() for gradient in products.gradients(a, g))
        return torch.stack([torch.dot(flat, square) for square in squares])


class Factored(Information):
    """The rank-one approximation of the diagonal that is best in KL divergence: out + in numbers.

        F ~ rows columns^T / sum(F)     rows, columns: row and column sums of the diagonal

    as in Adafactor (arXiv 1804.04235). `products.row_sums` gives the sums without forming `G`.
    """

    @classmethod
    def zeros(cls, out_size: int, in_size: int, device: torch.device) -> "Factored":
        rows, columns = torch.zeros(out_size, device=device), torch.zeros(in_size, device=device)
        return cls({"rows": rows, "columns": columns})

    def add(self, a: Tensor, g: Tensor) -> None:
        self.tensors["rows"] += products.row_sums(a, g)
        self.tensors["columns"] += products.row_sums(g, a)

    def divide(self, examples: int) -> None:
        self.tensors["rows"] /= examples
        self.tensors["columns"] /= examples

    def _factors(self) -> tuple[Tensor, Tensor]:
        # Scaled to about the same size, so that neither leaves the range of bfloat16.
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


class Kronecker(Information):
    """K-FAC (arXiv 1503.05671): the Kronecker product of two matrices, out^2 + in^2 numbers.

        F ~ left (x) right     left = mean_examples sum_tokens g g^T
                               right = sum_tokens |g|^2 a a^T / sum_tokens |g|^2

    Unlike the other two it is not diagonal. It treats the tokens of an example as independent. The
    weights |g|^2 exclude positions without a gradient (padding) and preserve the trace.
    """

    @classmethod
    def zeros(cls, out_size: int, in_size: int, device: torch.device) -> "Kronecker":
        shapes = {"left": (out_size, out_size), "right": (in_size, in_size), "weight": (1,)}
        return cls({part: torch.zeros(shape, device=device) for part, shape in shapes.items()})

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


FISHER_KINDS: Mapping[str, type[Diagonal | Factored | Kronecker]] = {
    "diagonal": Diagonal,
    "factored": Factored,
    "kfac": Kronecker,
}


def estimate(
    kind: str,
    lm: LanguageModel,
    weights: Weights,
    rows: Sequence[Row],
    batches: Iterable[list[int]],
    relabel: Callable[[Batch], Batch] | None = None,
) -> tuple[dict[str, Information], list[int]]:
    """The Fisher information of every matrix, a mean over examples.

    Args:
        kind: a key of `FISHER_KINDS`.
        lm: the model at whose weights it is taken.
        weights: the matrices.
        rows: the examples.
        batches: lists of indices into `rows`; the result does not depend on the batching.
        relabel: replaces the labels of a batch (`sampled_labels`); None keeps the data's labels.

    Returns:
        the information by matrix, and the indices of examples left out for a non-finite loss.

    Raises:
        InputError: the information is not finite although all losses are.
    """
    device = next(lm.model.parameters()).device
    information: dict[str, Information] = {
        name: FISHER_KINDS[kind].zeros(*shape, device) for name, shape in weights.shapes.items()
    }

    def use(name: str, a: Tensor, g: Tensor) -> None:
        information[name].add(a, g)

    def add(batch: Batch) -> Tensor:
        batch = relabel(batch) if relabel else batch
        return per_example(lm.model, weights, batch, use, lm.bf16)

    left_out = [i for batch in batches for i in finite_batch(lm, rows, batch, add)[2]]
    for name, matrix in information.items():
        matrix.divide(max(1, len(rows) - len(left_out)))
        if not all(tensor.isfinite().all() for tensor in matrix.tensors.values()):
            raise InputError(
                f"--learning_rate: the Fisher information of {name} is not finite; lower it and "
                f"run `letgo probe --overwrite true`, or set --bf16 false"
            )
    return information, left_out


def sampled_labels(lm: LanguageModel, seed: int) -> Callable[[Batch], Batch]:
    """Replaces labels by draws from the model's own predictions: the Fisher information proper.

    Every label is drawn given the data's tokens before it. With the data's labels (`empirical`)
    the estimate is the second moment of the gradients instead (arXiv 1905.12558).
    """

    @torch.no_grad()
    def relabel(batch: Batch) -> Batch:
        with autocast(lm.bf16):
            logits = lm.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[:, :-1]
        labels = batch.labels.clone()
        for i, row in enumerate(labels):
            # Each example has its own seed, so that its labels do not depend on the batch.
            own = hash((seed, *batch.input_ids[i][batch.attention_mask[i].bool()].tolist()))
            generator = torch.Generator(logits.device).manual_seed(own & (2**63 - 1))
            labelled = row[1:] != -100
            chances = logits[i][labelled].float().softmax(1)
            row[1:][labelled] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        return batch._replace(labels=labels)

    return relabel


def save(file: Path, fisher: dict[str, Information], metadata: dict[str, str]) -> None:
    """Write the Fisher information of all matrices to a safetensors file, as "NAME.PART"."""
    tensors = {
        f"{name}.{part}": tensor.contiguous().cpu()
        for name, matrix in fisher.items()
        for part, tensor in matrix.tensors.items()
    }
    save_file(tensors, file, metadata=metadata)
    _sort_metadata(file)


def _sort_metadata(file: Path) -> None:
    """Write the metadata in the order of their names: safetensors' own order is random."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(size))


def load(file: Path, weights: Weights, model: str, device: torch.device) -> dict[str, Information]:
    """Read the Fisher information of all matrices from a file that `save` wrote, to a device.

    Raises:
        InputError: the file is damaged, or belongs to another model than that with the fingerprint
            `model`.
    """
    try:
        return _load(file, weights, model, device)
    except SafetensorError as error:
        raise InputError(
            f"{file} is damaged ({error}); `letgo fisher --output_dir {file.parent} --overwrite` "
            f"makes it again"
        ) from error


def _load(file: Path, weights: Weights, model: str, device: torch.device) -> dict[str, Information]:
    with safe_open(file, "pt", device=str(device)) as stored:
        metadata = stored.metadata() or {}
        kind = FISHER_KINDS.get(metadata.get("kind", ""))
        names = set(stored.keys())
        if kind is None or metadata.get("model") != model:
            raise InputError(
                f"{file} belongs to another model ({metadata.get('model')}, not {model}); delete "
                f"it and run `letgo fisher` again"
            )
        fisher: dict[str, Information] = {}
        for name, (out_size, in_size) in weights.shapes.items():
            zeros = kind.zeros(out_size, in_size, torch.device("meta")).tensors
            parts = [part for part in zeros if f"{name}.{part}" in names]
            tensors = {part: stored.get_tensor(f"{name}.{part}") for part in parts}
            if {p: t.shape for p, t in tensors.items()} != {p: t.shape for p, t in zeros.items()}:
                raise InputError(
                    f"{file} has no Fisher information of {name} with {out_size} x {in_size} "
                    f"weights: it belongs to another model; delete it and run `letgo fisher` again"
                )
            fisher[name] = kind(tensors)
    return fisher
