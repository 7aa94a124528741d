"""Stage 2c: how confidently each self-generated text may be forgotten."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from letgo.confidence.gradients import linear_layers, per_example_gradients
from letgo.data import batches_by_tokens, generated_rows
from letgo.errors import InputError
from letgo.inference import Batch, autocast, example_losses, pad_rows
from letgo.models import device, load_base, load_base_tokenizer, load_trained
from letgo.progress import log
from letgo.stages import Run, in_chunks, need

NUMBERS = ("loss_base", "loss_probe", "interference", "linear", "quadratic", "confidence")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("forget_set", pa.string()),
        ("tokens", pa.int64()),
        *((name, pa.float64()) for name in NUMBERS),
        ("score", pa.string()),
    ]
)


def fisher_distance(linear: float, quadratic: float, constant: float, alpha: float) -> float:
    """The published forgetting confidence (arXiv 2505.19715), with the square expanded.

        FC(x) = 1/2 sum_i F_i (theta_base - alpha g_x - theta_L*)_i^2
              = 1/2 (constant - 2 alpha linear + alpha^2 quadratic)

    Args:
        linear: `<F delta, g_x>` with `delta = theta_base - theta_L*` and `g_x` the gradient of the
            text's mean NLL at the base model.
        quadratic: `sum F g_x^2`.
        constant: `sum F delta^2`, the same for every text.
        alpha: length of the step that unlearned knowledge is followed by.
    """
    return 0.5 * (constant - 2 * alpha * linear + alpha**2 * quadratic)


def score(run: Run, scratch: Path) -> None:
    """Write `scores.parquet`: two scalars per text; the confidence follows for any alpha."""
    settings, training = run.config.run, run.config.training
    alpha = training.learning_rate if training.alpha is None else training.alpha
    texts = pq.read_table(need(run, "self_knowledge.parquet", "elicit")).to_pylist()
    fisher = load_file(need(run, "fisher.safetensors", "fisher"), device=str(device()))
    base = load_base(run.config)
    probe = load_trained(run.config, need(run, "probe", "probe"))
    layers = linear_layers(base)
    delta = weight_differences(layers, linear_layers(probe))
    if run.config.model.use_peft:  # the score lives in the weights that the adapter can move
        moved = {name: layer for name, layer in layers.items() if delta[name].any()}
        log.info("the adapter moves %d of %d linear layers", len(moved), len(layers))
        layers = moved
    constant = sum(float((fisher[n] * delta[n] ** 2).sum()) for n in layers)
    weighted = {name: delta.pop(name).mul_(fisher[name]) for name in layers}
    tokenizer = load_base_tokenizer(run.config)
    rows = generated_rows(texts)
    bf16 = bool(training.bf16)

    def measure(batch: list[int]) -> list[dict[str, Any]]:
        padded = pad_rows([rows[i] for i in batch], tokenizer.pad_token_id)
        losses, linear, quadratic = gradient_products(base, layers, padded, weighted, fisher, bf16)
        with torch.inference_mode(), autocast(bf16):
            after = example_losses(probe, padded)
        columns = torch.stack([losses.double(), after.cpu().double(), linear, quadratic]).T.tolist()
        names = ("loss_base", "loss_probe", "linear", "quadratic")
        return [
            {"index": i, **dict(zip(names, values, strict=True))}
            for i, values in zip(batch, columns, strict=True)
        ]

    batches = batches_by_tokens([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)
    table: list[dict[str, Any]] = []
    measured = in_chunks("score", scratch, batches, measure)
    for row in sorted(measured, key=lambda row: row.pop("index")):
        text = texts[len(table)]
        table.append(
            {
                **row,
                "id": text["id"],
                "forget_set": text["forget_set"],
                "tokens": len(text["completion_ids"]),
                "interference": row["loss_probe"] - row["loss_base"],
                "confidence": fisher_distance(row["linear"], row["quadratic"], constant, alpha),
                "score": "fisher_distance",
            }
        )
    if not all(math.isfinite(row["confidence"]) for row in table):
        raise InputError(
            "--learning_rate: the confidence is not a finite number, because plain fine-tuning has "
            "diverged; lower the learning rate and make probe/ again"
        )
    columns = pa.Table.from_pylist(table, SCHEMA)
    notes = {"alpha": repr(alpha), "constant": repr(constant)}
    pq.write_table(columns.replace_schema_metadata(notes), scratch / "scores.parquet")


def weight_differences(
    base: dict[str, nn.Linear], optimum: dict[str, nn.Linear]
) -> dict[str, Tensor]:
    """`delta = theta_base - theta_L*`, (out, in) float32 per layer."""
    return {
        name: layer.weight.detach().float() - optimum[name].weight.detach().float()
        for name, layer in base.items()
    }


def gradient_products(
    model: Any,
    layers: dict[str, nn.Linear],
    batch: Batch,
    weighted: dict[str, Tensor],
    fisher: dict[str, Tensor],
    bf16: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and the two products of each example's gradient, in one backward pass.

    Args:
        model: the base model.
        layers: which weights.
        batch: (batch, tokens), padded, prompts masked.
        weighted: `F * delta`, (out, in) per layer.
        fisher: `F`, (out, in) per layer.
        bf16: compute forward and backward in bfloat16.

    Returns:
        losses (batch,) float32, linear (batch,) and quadratic (batch,) float64.
    """
    size = batch.labels.shape[0]
    linear = torch.zeros(size, dtype=torch.float64)
    quadratic = torch.zeros(size, dtype=torch.float64)

    def add(name: str, i: int, gradient: Tensor) -> None:  # gradient: (out, in)
        linear[i] += float(torch.dot(weighted[name].flatten(), gradient.flatten()))
        quadratic[i] += float(torch.dot(fisher[name].flatten(), gradient.square_().flatten()))

    with per_example_gradients(model, layers, add):
        with autocast(bf16):
            losses = example_losses(model, batch)
        torch.autograd.backward(losses.sum())
    return losses.detach().cpu(), linear, quadratic
