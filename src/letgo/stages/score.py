"""Stage 2c: how confidently each self-generated text may be forgotten."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from letgo import processes
from letgo.data.tokens import generated_rows
from letgo.errors import InputError
from letgo.models import loading as models
from letgo.models.inference import autocast, example_losses, pad_rows
from letgo.progress import log
from letgo.run.base import load_base, load_base_tokenizer, load_trained
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks, require
from letgo.scoring.fisher import Information, load
from letgo.scoring.gradients import finite_batch
from letgo.scoring.measure import Product, along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.scores import SCORES, LearningStats
from letgo.scoring.weights import Weights, keep_in_bfloat16, scored_weights
from letgo.stages.optimum import learning_gradient, way

NUMBERS = (
    "loss_base",
    "loss_probe",
    "interference",
    "linear",
    "quadratic",
    "inner",
    "learning",
    "norm",
    "confidence",
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("forget_set", pa.string()),
        ("tokens", pa.int64()),
        *((name, pa.float64()) for name in NUMBERS),
        ("score", pa.string()),
    ]
)


def score(run: Run, scratch: Path) -> None:
    """Write `scores.parquet`: a few numbers per text, and the confidence that follows from them.

    Raises:
        InputError: files of another model, an optimum that is the base model, or numbers that are
            not finite.
    """
    settings, training = run.settings, run.training
    texts = pq.read_table(require(run, "self_knowledge.parquet", "elicit")).to_pylist()
    rows, bf16 = generated_rows(texts), bool(training.bf16)
    tokenizer = load_base_tokenizer(run.config)
    file, probe = require(run, "fisher.safetensors", "fisher"), require(run, "probe", "probe")
    base = load_base(run.config)
    weights = scored_weights(base)
    fisher = load(
        file,
        weights,
        models.fingerprint(settings.model, training.trust_remote_code),
        models.device(),
    )
    weights, wanted, task = prepare(run, probe, base, weights, fisher)
    batches = weights.batches([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)

    def measure(batch: list[int]) -> list[dict[str, Any]]:
        part: dict[str, float] = {}
        places, found, left_out = finite_batch(
            rows,
            batch,
            tokenizer.pad_token_id,
            lambda padded: gradient_products(base, weights, padded, wanted, bf16, (of, part)),
        )
        measured = [
            {"index": i, **{key: found[key][place].item() for key in found}}
            for place, i in enumerate(places)
        ]
        # JSON has no undefined numbers: what is missing is one.
        return [*measured, *({"index": i} for i in left_out), {"index": -1, "shares": part}]

    of = SCORES[settings.score].direction or ""
    measured, shares = {}, Counter[str]()
    for row in in_chunks("score", scratch, batches, measure):
        shares.update(row.pop("shares", {}))
        measured[row["index"]] = row
    wanted.clear()  # the other model needs the room
    after = _losses_after(run, scratch, probe, rows, batches, tokenizer.pad_token_id)
    table = [
        _row(text, measured[i], after.get(i, math.nan), task, settings.score)
        for i, text in enumerate(texts)
    ]
    _check(table, settings.skip_non_finite)
    # With these the confidence can be had for another alpha, or another score, without a gradient.
    notes = {name: repr(getattr(task, name)) for name in ("constant", "length", "learning")}
    if shares:
        notes["shares"] = json.dumps(shares)
    if SCORES[settings.score].uses_alpha:
        notes["alpha"] = "auto" if task.alpha is None else repr(task.alpha)
    if not processes.is_first():
        return
    columns = pa.Table.from_pylist(table, SCHEMA)
    pq.write_table(columns.replace_schema_metadata(notes), scratch / "scores.parquet")


def prepare(
    run: Run, probe: Path, base: Any, weights: Weights, fisher: dict[str, Information]
) -> tuple[Weights, dict[str, Product], LearningStats]:
    """What the texts are multiplied with, and the numbers that are the same for all of them."""
    delta = way(run.config, probe, base, weights, fisher)
    if run.adapter.use_peft:  # the score lives in the weights that the adapter can move
        weights = weights.restricted({name for name, d in delta.items() if d.any()})
    weighted = {name: fisher[name].times(delta[name]) for name in weights.shapes}
    constant = sum(float((weighted[n] * delta[n]).sum()) for n in weights.shapes)
    length = sum(float((delta[n] ** 2).sum()) for n in weights.shapes)
    bf16 = bool(run.training.bf16)
    if bf16:
        keep_in_bfloat16(weights)  # from here on the model is only looked at
    learned = learning_gradient(run, probe, base, weights)
    learning = sum(float((g**2).sum()) for g in learned.values())
    # In the dtype of the backward pass, where they are multiplied.
    dtype = torch.bfloat16 if bf16 else next(base.parameters()).dtype
    if not dtype.is_floating_point:  # quantized
        dtype = torch.float32
    wanted = {
        "linear": along({n: weighted.pop(n).to(dtype) for n in weights.shapes}),
        "inner": along({n: delta.pop(n).to(dtype) for n in weights.shapes}),
        "learning": along({n: learned.pop(n).to(dtype) for n in weights.shapes}),
        "quadratic": fisher_norms(fisher),
        "norm": plain_norms,
    }
    alpha = run.training.alpha or "auto"
    step = None if alpha == "auto" else float(alpha)
    return weights, wanted, LearningStats(constant, length, learning, step)


def _losses_after(
    run: Run, scratch: Path, probe: Path, rows: list[Any], batches: list[list[int]], pad: int
) -> dict[int, float]:
    """Mean NLL of the texts at the optimum; none where the optimum is only a gradient."""
    if (probe / "gradient.safetensors").exists():
        if "loss_probe" in SCORES[run.settings.score].needs:
            raise InputError(
                f"--score {run.settings.score} needs the losses of a fine-tuned model; choose "
                f"another --optimum than gradient"
            )
        return {}
    trained = load_trained(run.config, probe)
    bf16 = bool(run.training.bf16)

    def losses(batch: list[int]) -> list[dict[str, Any]]:
        with torch.inference_mode(), autocast(bf16):
            found = example_losses(trained, pad_rows([rows[i] for i in batch], pad)).tolist()
        return [{"index": i, "loss": loss} for i, loss in zip(batch, found, strict=True)]

    after = in_chunks("loss after learning", scratch, batches, losses)
    return {row["index"]: row["loss"] for row in after}


def _row(
    text: dict[str, Any], found: dict[str, float], after: float, task: LearningStats, name: str
) -> dict[str, Any]:
    products = ("linear", "quadratic", "inner", "learning", "norm")
    loss = found.get("loss", math.nan)
    row = {
        "loss_base": loss,
        "loss_probe": after,
        **{key: found.get(key, math.nan) for key in products},
    }
    return {
        **row,
        "id": text["id"],
        "forget_set": text["forget_set"],
        "tokens": len(text["completion_ids"]),
        "interference": after - loss,
        "confidence": SCORES[name](row, task),
        "score": name,
    }


def _check(table: list[dict[str, Any]], go_on: bool) -> None:
    """Name the first text without a finite confidence.

    Raises:
        InputError: there is one and the run is not to go on, or there are no others.
    """
    bad = [row for row in table if not math.isfinite(row["confidence"])]
    if not bad:
        return
    of_base = sum(not math.isfinite(row["loss_base"]) for row in bad)
    message = (
        f"the confidence of {len(bad)} of {len(table)} texts is not a finite number "
        f"(first: {bad[0]['id']}; {of_base} have no finite loss under the base model)"
    )
    if not go_on or len(bad) == len(table):
        raise InputError(
            f"{message}; lower --learning_rate and make probe/ again if plain fine-tuning has "
            f"diverged, or leave such texts out by --skip_non_finite"
        )
    log.warning("%s; left out", message)
