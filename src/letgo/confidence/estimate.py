"""The Fisher information of a model on labelled examples."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from letgo.confidence.gradients import Weights, per_example
from letgo.confidence.information import KINDS, Information
from letgo.confidence.measure import finite_batch
from letgo.errors import InputError
from letgo.inference import Batch, autocast


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
