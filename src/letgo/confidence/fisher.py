"""Stage 2b: the learning task's Fisher information at its optimum."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from letgo import models
from letgo.confidence.estimate import estimate, sampled_labels
from letgo.confidence.gradients import Weights, scored_weights
from letgo.confidence.information import KINDS, Information
from letgo.data import sample
from letgo.errors import InputError
from letgo.progress import log, track
from letgo.stages import Run, need
from letgo.training import learning_rows


def fisher(run: Run, scratch: Path) -> None:
    """Write `fisher.safetensors`: the Fisher information of every scored weight matrix.

    It is taken at the optimum: the Laplace approximation behind the confidence expands the learning
    task's loss around it. Where the optimum is only a gradient, it is taken at the base model.

    Raises:
        InputError: an example's loss, or the information itself, is not a finite number.
    """
    settings, training = run.config.run, run.config.training
    probe = need(run, "probe", "probe")
    at_base = (probe / "gradient.safetensors").exists()
    model = models.load_base(run.config) if at_base else models.load_trained(run.config, probe)
    tokenizer = models.load_base_tokenizer(run.config)
    rows = learning_rows(run.config, tokenizer, run.learn, model.config)
    rows = sample(rows, settings.fisher_examples, training.seed)
    weights = scored_weights(model)
    lengths = [len(row["input_ids"]) for row in rows]
    batches = weights.batches(lengths, settings.tokens_per_batch)
    found, left_out = estimate(
        settings.fisher_kind,
        model,
        weights,
        rows,
        track(batches, "Fisher information", len(batches)),
        tokenizer.pad_token_id,
        bool(training.bf16),
        sampled_labels(model, training.seed, bool(training.bf16))
        if settings.fisher_labels == "sampled"
        else None,
    )
    if left_out:
        text = tokenizer.decode(rows[left_out[0]]["input_ids"])[:60]
        message = (
            f"the loss of {len(left_out)} learning examples is not a finite number "
            f"(first: {text!r})"
        )
        if not settings.skip_non_finite or len(left_out) == len(rows):
            raise InputError(
                f"{message}; lower --learning_rate and make probe/ again, or leave such examples "
                f"out by --skip_non_finite"
            )
        log.warning("%s, left out", message)
    save(
        scratch / "fisher.safetensors",
        found,
        {
            "kind": settings.fisher_kind,
            "labels": settings.fisher_labels,
            "examples": str(len(rows) - len(left_out)),
            "at": "base" if at_base else "probe",
            "model": models.fingerprint(settings.model, training.trust_remote_code),
        },
    )


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
