"""Stage 2b: the learning task's Fisher information at its optimum."""

from pathlib import Path

from letgo.data.splits import sample
from letgo.errors import InputError
from letgo.models import loading as models
from letgo.progress import log, track
from letgo.run.base import load_base, load_base_tokenizer, load_trained
from letgo.run.inputs import Run
from letgo.run.stage import require
from letgo.scoring.fisher import estimate, sampled_labels, save
from letgo.scoring.weights import scored_weights
from letgo.stages.fit import learning_rows


def fisher(run: Run, scratch: Path) -> None:
    """Write `fisher.safetensors`: the Fisher information of every scored weight matrix.

    It is taken at the optimum: the Laplace approximation behind the confidence expands the learning
    task's loss around it. Where the optimum is only a gradient, it is taken at the base model.

    Raises:
        InputError: an example's loss, or the information itself, is not a finite number.
    """
    settings, training = run.settings, run.training
    probe = require(run, "probe", "probe")
    at_base = (probe / "gradient.safetensors").exists()
    model = load_base(run.config) if at_base else load_trained(run.config, probe)
    tokenizer = load_base_tokenizer(run.config)
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
