"""Stage 2b: the learning task's Fisher information at its optimum."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from letgo.confidence.gradients import linear_layers, per_example_gradients
from letgo.data import batches_by_tokens, sample
from letgo.inference import autocast, example_losses, pad_rows
from letgo.models import load_base_tokenizer, load_trained
from letgo.progress import track
from letgo.stages import Run, need
from letgo.training import learning_rows


def fisher(run: Run, scratch: Path) -> None:
    """Write `fisher.safetensors`: the diagonal empirical Fisher of every linear layer.

    It is taken at the probe: the Laplace approximation behind the confidence expands the learning
    task's loss around its optimum.
    """
    settings = run.config.run
    model = load_trained(run.config, need(run, "probe", "probe"))
    tokenizer = load_base_tokenizer(run.config)
    fitting = learning_rows(run.config, tokenizer, run.learn, model.config)
    rows = sample(fitting, settings.fisher_examples, run.config.training.seed)
    layers = linear_layers(model)
    diagonal = diagonal_fisher(
        model, layers, rows, tokenizer.pad_token_id, settings.tokens_per_batch,
        bool(run.config.training.bf16),
    )  # fmt: skip
    save_file(
        {name: tensor.cpu() for name, tensor in diagonal.items()},
        scratch / "fisher.safetensors",
        metadata={"kind": "diagonal", "examples": str(len(rows)), "at": "probe"},
    )


def diagonal_fisher(
    model: Any,
    layers: dict[str, nn.Linear],
    rows: Sequence[dict[str, list[int]]],
    pad_token_id: int,
    tokens_per_batch: int,
    bf16: bool = False,
) -> dict[str, Tensor]:
    """Mean over examples of the squared per-example gradient (empirical labels).

    Squared before the mean: the square of a batch's mean gradient is too small by about the square
    of the batch size.

    Args:
        model: in evaluation mode.
        layers: which weights.
        rows: `data.training_row`s.
        pad_token_id: for padding batches.
        tokens_per_batch: bound on a batch's size; does not change the result.
        bf16: compute forward and backward in bfloat16.

    Returns:
        (out, in) float32 per layer.
    """
    total = {name: torch.zeros_like(layer.weight, dtype=torch.float32)
             for name, layer in layers.items()}  # fmt: skip

    def add_square(name: str, _: int, gradient: Tensor) -> None:
        total[name].addcmul_(gradient, gradient)

    batches = batches_by_tokens([len(row["input_ids"]) for row in rows], tokens_per_batch)
    with per_example_gradients(model, layers, add_square):
        for batch in track(batches, "Fisher information", len(batches)):
            with autocast(bf16):
                losses = example_losses(model, pad_rows([rows[i] for i in batch], pad_token_id))
            torch.autograd.backward(losses.sum())
    return {name: tensor.div_(len(rows)) for name, tensor in total.items()}
