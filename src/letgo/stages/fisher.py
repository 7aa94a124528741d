"""Stage 2b: the learning task's Fisher information at its optimum."""

from pathlib import Path

from letgo.data.splits import sample
from letgo.models.loading import fingerprint
from letgo.progress import track
from letgo.run.base import load_base, load_trained
from letgo.run.folder import FISHER, PROBE, require
from letgo.run.inputs import Run
from letgo.scoring.fisher import estimate, sampled_labels, save
from letgo.scoring.weights import scored_weights
from letgo.stages.fit import learning_rows
from letgo.stages.optimum import GRADIENT, leave_out_or_stop


def fisher(run: Run, scratch: Path) -> None:
    """Write `fisher.safetensors`: the Fisher information of every scored weight matrix.

    It is taken at the optimum: the Laplace approximation behind the published score expands the
    learning task's loss around it. Where the optimum is only a gradient, at the base model.

    Raises:
        InputError: an example's loss, or the information itself, is not a finite number.
    """
    settings, training = run.settings, run.training
    probe = require(run.folder, PROBE)
    at_base = (probe / GRADIENT).exists()
    lm = load_base(run.config) if at_base else load_trained(run.config, probe)
    rows = sample(learning_rows(lm, run.learn), settings.fisher_examples, training.seed)
    weights = scored_weights(lm.model)
    batches = weights.batches([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)
    progress = track(batches, "Fisher information", len(batches))
    labels = sampled_labels(lm, training.seed) if settings.fisher_labels == "sampled" else None
    information, left_out = estimate(settings.fisher_kind, lm, weights, rows, progress, labels)
    if left_out:
        text = lm.tokenizer.decode(rows[left_out[0]]["input_ids"])[:60]
        leave_out_or_stop(
            f"the loss of {len(left_out)} learning examples is not a finite number "
            f"(first: {text!r})",
            "lower --learning_rate and run `letgo probe --overwrite true`, or leave such examples "
            "out by --skip_non_finite",
            settings.skip_non_finite and len(left_out) < len(rows),
        )
    metadata = {
        "kind": settings.fisher_kind,
        "labels": settings.fisher_labels,
        "examples": str(len(rows) - len(left_out)),
        "at": "base" if at_base else "probe",
        "model": fingerprint(settings.model, training.trust_remote_code),
    }
    save(scratch / FISHER.name, information, metadata)
