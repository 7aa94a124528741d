"""The learning task's optimum relative to the base model: shared by probe, fisher and score."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from letgo.data.splits import sample
from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.models.loading import device
from letgo.progress import log, track
from letgo.run.base import load_trained
from letgo.run.folder import PROBE
from letgo.run.inputs import Run
from letgo.scoring.fisher import Information
from letgo.scoring.measure import summed_gradient
from letgo.scoring.scores import Score
from letgo.scoring.weights import Weights, scored_weights, values
from letgo.stages.fit import learning_rows

GRADIENT = "gradient.safetensors"  # in `probe/`, where the optimum is only a gradient


def fisher_is_needed(score: Score, optimum: str) -> bool:
    """Whether scoring needs the Fisher information: for the score, or as a preconditioner."""
    return score.needs_fisher or (optimum == "gradient" and "inner" in score.needs)


def mean_gradient(run: Run, lm: LanguageModel, weights: Weights) -> dict[str, Tensor]:
    """Mean gradient of `--fisher_examples` examples at the base model, (out, in) float32 by matrix.

    Raises:
        InputError: the loss of an example is not finite, and `--skip_non_finite` is not set.
    """
    settings = run.settings
    rows = sample(learning_rows(lm, run.learn), settings.fisher_examples, run.training.seed)
    batches = weights.batches([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)
    progress = track(batches, "learning gradient", len(batches))
    total, left_out = summed_gradient(lm, weights, rows, progress)
    if left_out:
        text = lm.tokenizer.decode(rows[left_out[0]]["input_ids"])[:60]
        leave_out_or_stop(
            f"--learn: the base model's loss of {len(left_out)} learning examples is not a finite "
            f"number (first: {text!r})",
            "leave them out by --skip_non_finite, or try --bf16 false",
            settings.skip_non_finite and len(left_out) < len(rows),
        )
    return {name: tensor.div_(len(rows) - len(left_out)) for name, tensor in total.items()}


def learning_gradient(run: Run, lm: LanguageModel, weights: Weights) -> dict[str, Tensor]:
    """The mean learning gradient at the base model, stored by the probe if that is all it is."""
    file = run.folder / PROBE.name / GRADIENT
    if not file.exists():
        return mean_gradient(run, lm, weights)
    stored = load_file(file, device=str(device()))
    return {name: stored[name] for name in weights.shapes}


def leave_out_or_stop(message: str, remedy: str, may_leave_out: bool) -> None:
    """Warn about examples or texts that are left out.

    Raises:
        InputError: they may not be left out.
    """
    if not may_leave_out:
        raise InputError(f"{message}; {remedy}")
    log.warning("%s; left out", message)


def update_direction(
    run: Run, base: LanguageModel, weights: Weights, fisher: Mapping[str, Information] | None
) -> dict[str, Tensor] | None:
    """`delta = theta_base - theta_L*`, (out, in) float32 per matrix.

    Where the optimum is only a gradient `g`, it is one preconditioned step along it,
    `g / (sqrt(F) + eps)` as AdamW's, whose length means nothing.

    Returns:
        None where the optimum is only a gradient and there is no Fisher information.

    Raises:
        InputError: the optimum is the base model, or a DoRA adapter on a quantized model.
    """
    probe = run.folder / PROBE.name
    if (probe / GRADIENT).exists():
        if fisher is None:
            return None
        stored = load_file(probe / GRADIENT, device=str(device()))
        return {name: fisher[name].precondition(stored[name]) for name in weights.shapes}
    trained = load_trained(run.config, probe).model
    if getattr(base.model, "is_quantized", False):
        delta = _adapter_direction(trained, weights)
    else:
        with torch.no_grad():
            optimum = dict(values(scored_weights(trained)))
            delta = {n: weight.float() - optimum[n].float() for n, weight in values(weights)}
    moved = sum(bool(d.any()) for d in delta.values())
    if not moved:
        raise InputError(
            "--optimum: fine-tuning has not changed any scored weight, so there is no update "
            "direction to compare texts with; raise --learning_rate or the number of steps, then "
            "run `letgo probe --overwrite true`"
        )
    if moved < len(delta):
        log.info("fine-tuning changes %d of %d weight matrices", moved, len(delta))
    return delta


def _adapter_direction(trained: Any, weights: Weights) -> dict[str, Tensor]:
    """Minus what an adapter adds to quantized weights, which themselves do not change."""
    adapted: dict[str, Any] = {n: m for n, m in trained.named_modules() if hasattr(m, "lora_A")}
    delta = {}
    for name, (out, into) in weights.shapes.items():
        layer = adapted.get(name)
        if layer is None:
            delta[name] = torch.zeros(out, into, device=device())
            continue
        if any(layer.use_dora.values()):
            raise InputError(
                f"--use_dora: DoRA rescales the weights of {name}, which are quantized and not "
                f"known exactly; use plain LoRA"
            )
        delta[name] = -sum(layer.get_delta_weight(a).float() for a in layer.active_adapters)
    return delta
