"""Where learning leads from the base model: what the stages fisher and score share."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from letgo.data.splits import sample
from letgo.errors import InputError
from letgo.models import loading as models
from letgo.progress import log, track
from letgo.run.base import load_base_tokenizer, load_trained
from letgo.run.inputs import Run
from letgo.scoring.fisher import Information
from letgo.scoring.measure import summed_gradient
from letgo.scoring.weights import Weights, scored_weights, values
from letgo.stages.fit import learning_rows


def mean_gradient(run: Run, model: Any, weights: Weights) -> dict[str, Tensor]:
    """Mean over learning examples of the gradient at the base model, (out, in) float32 per matrix.

    Args:
        run: its learning examples, `--fisher_examples` of them.
        model: the base model.
        weights: which matrices.

    Raises:
        InputError: an example's loss is not a finite number, and such are not to be left out.
    """
    settings, training = run.settings, run.training
    tokenizer = load_base_tokenizer(run.config)
    rows = learning_rows(run.config, tokenizer, run.learn, model.config)
    rows = sample(rows, settings.fisher_examples, training.seed)
    batches = weights.batches([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)
    total, left_out = summed_gradient(
        model,
        weights,
        rows,
        track(batches, "learning gradient", len(batches)),
        tokenizer.pad_token_id,
        bool(training.bf16),
    )
    if left_out:
        text = tokenizer.decode(rows[left_out[0]]["input_ids"])[:60]
        message = (
            f"the base model's loss of {len(left_out)} learning examples is not a finite "
            f"number (first: {text!r})"
        )
        if not settings.skip_non_finite or len(left_out) == len(rows):
            raise InputError(
                f"--learn: {message}; leave them out by --skip_non_finite, or give --bf16 false"
            )
        log.warning("%s, left out", message)
    return {name: tensor.div_(len(rows) - len(left_out)) for name, tensor in total.items()}


def way(
    config: Any, folder: Path, base: Any, weights: Weights, fisher: dict[str, Information]
) -> dict[str, Tensor]:
    """`delta = theta_base - theta_L*`, (out, in) float32 per matrix.

    Where the optimum is only a gradient, one preconditioned step along it: `g / (sqrt(F) + eps)`
    as AdamW's, of no particular length.

    Args:
        config: of the run.
        folder: `probe/`.
        base: the base model.
        weights: its scored matrices.
        fisher: the Fisher information, for the preconditioner.

    Raises:
        InputError: the optimum is the base model, or a DoRA adapter on a quantized model.
    """
    if (folder / "gradient.safetensors").exists():
        stored = load_file(folder / "gradient.safetensors", device=str(models.device()))
        return {name: fisher[name].precondition(stored[name]) for name in weights.shapes}
    trained = load_trained(config, folder)
    if getattr(base, "is_quantized", False):
        delta = _adapter_way(trained, weights)
    else:
        with torch.no_grad():
            optimum = dict(values(scored_weights(trained)))
            delta = {n: weight.float() - optimum[n].float() for n, weight in values(weights)}
    if not any(d.any() for d in delta.values()):
        raise InputError(
            "--optimum: fine-tuning has not moved a single scored weight, so there is no way to "
            "measure texts along; raise --learning_rate or the number of steps, make probe/ again"
        )
    moved = sum(bool(d.any()) for d in delta.values())
    if moved < len(delta):
        log.info("fine-tuning moves %d of %d weight matrices", moved, len(delta))
    return delta


def _adapter_way(trained: Any, weights: Weights) -> dict[str, Tensor]:
    """Quantized weights stay as they are; the way is minus what the adapter adds to them."""
    adapted: dict[str, nn.Module] = {
        name: module for name, module in trained.named_modules() if hasattr(module, "lora_A")
    }
    delta = {}
    for name, (out, into) in weights.shapes.items():
        if name not in adapted:
            delta[name] = torch.zeros(out, into, device=models.device())
            continue
        layer: Any = adapted[name]
        if any(layer.use_dora.values()):
            raise InputError(
                f"--use_dora: {name} is quantized, and the size of its weights, which "
                f"DoRA rescales, is not known exactly; use plain LoRA"
            )
        delta[name] = -sum(layer.get_delta_weight(a).float() for a in layer.active_adapters)
    return delta


def learning_gradient(run: Run, probe: Path, base: Any, weights: Weights) -> dict[str, Tensor]:
    """The mean learning gradient at the base model, (out, in) per matrix."""
    file = probe / "gradient.safetensors"  # where the optimum is no more than that
    if not file.exists():
        return mean_gradient(run, base, weights)
    stored = load_file(file, device=str(models.device()))
    return {name: stored[name] for name in weights.shapes}
