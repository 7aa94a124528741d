"""Stage 2c: the forgetting confidence of every self-generated text."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from letgo import processes
from letgo.data.tokens import generated_rows
from letgo.errors import InputError
from letgo.models.inference import LanguageModel, round_weights
from letgo.models.inference import Row as TokenRow
from letgo.models.loading import device, fingerprint
from letgo.run import folder as files
from letgo.run.base import load_base, load_trained
from letgo.run.folder import Row, require
from letgo.run.inputs import Run
from letgo.run.stage import in_chunks
from letgo.scoring.fisher import load
from letgo.scoring.gradients import finite_batch
from letgo.scoring.measure import Product, along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.scores import NUMBERS, SCORES, LearningStats, Numbers, Score
from letgo.scoring.weights import Weights, scored_weights
from letgo.stages import optimum
from letgo.stages.losses import losses_by_index

FLOATS = ("loss_base", "loss_probe", "interference", *NUMBERS, "confidence")
SCHEMA = pa.schema(
    {"id": pa.string(), "forget_set": pa.string(), "tokens": pa.int64()}
    | dict.fromkeys(FLOATS, pa.float64())  # a name that comes twice has its first position
    | {"score": pa.string()}
)


def score(run: Run, scratch: Path) -> None:
    """Write `scores.parquet`: the numbers of every text, and its confidence computed from them.

    Numbers that need the Fisher information are NaN unless the score needs it, and so are those of
    gradients if the score is of losses alone.

    Raises:
        InputError: files of another model, an optimum that is the base model, or numbers that are
            not finite.
    """
    settings, chosen = run.settings, SCORES[run.settings.score]
    probe = require(run.folder, files.SELF_KNOWLEDGE, files.PROBE)
    is_gradient = (probe / optimum.GRADIENT).exists()
    if is_gradient and "loss_probe" in chosen.needs:
        raise InputError(
            f"--score {settings.score} needs the losses of a fine-tuned model; choose another "
            f"--optimum than gradient"
        )
    texts = files.read_table(run.folder / files.SELF_KNOWLEDGE.name).to_pylist()
    rows = generated_rows(texts)
    base = load_base(run.config)
    weights = scored_weights(base.model)
    batches = weights.batches([len(row["input_ids"]) for row in rows], settings.tokens_per_batch)
    shares, stats = Counter[str](), LearningStats(math.nan, math.nan, math.nan, None)
    if chosen.needs_gradient:
        weights, products, stats = prepare(run, base, weights, chosen)
        numbers, shares = _measure(scratch, base, weights, rows, batches, products, chosen)
        products.clear()  # free memory before the second model is loaded
    else:
        before = losses_by_index("loss before learning", scratch, base, rows, batches)
        numbers = {i: {"loss_base": loss} for i, loss in before.items()}
    if not is_gradient:
        trained = load_trained(run.config, probe)
        for i, loss in losses_by_index(
            "loss after learning", scratch, trained, rows, batches
        ).items():
            numbers[i]["loss_probe"] = loss
    table = [_row(text, numbers[i], settings.score, chosen, stats) for i, text in enumerate(texts)]
    _check(table, settings.skip_non_finite)
    if processes.is_first():
        columns = pa.Table.from_pylist(table, SCHEMA)
        metadata = _metadata(chosen, stats, shares)
        pq.write_table(columns.replace_schema_metadata(metadata), scratch / files.SCORES.name)


def prepare(
    run: Run, base: LanguageModel, weights: Weights, score: Score
) -> tuple[Weights, dict[str, Product], LearningStats]:
    """What every text's gradient is multiplied with, and the numbers that all texts share.

    The weights of `base` are rounded to bfloat16 if it computes so.

    Returns:
        the matrices that count; products by the names of the numbers; the shared numbers.
    """
    fisher = None
    if optimum.fisher_is_needed(score, run.settings.optimum):
        name = fingerprint(run.settings.model, run.training.trust_remote_code)
        fisher = load(require(run.folder, files.FISHER), weights, name, device())
    delta = optimum.update_direction(run, base, weights, fisher)
    if delta and run.config.adapter.use_peft:  # only the weights that the adapter can change count
        weights = weights.restricted({name for name, d in delta.items() if d.any()})
    names = list(weights.shapes)
    directions = {} if delta is None else {"inner": delta}
    constant = length = math.nan
    if delta is not None:
        length = sum(float((delta[n] ** 2).sum()) for n in names)
    if delta is not None and fisher is not None:
        directions["linear"] = {n: fisher[n].times(delta[n]) for n in names}
        constant = sum(float((directions["linear"][n] * delta[n]).sum()) for n in names)
    if base.bf16:
        round_weights(weights.layers.values())  # from here on the model is only evaluated
    directions["learning"] = optimum.learning_gradient(run, base, weights)
    learning = sum(float((g**2).sum()) for g in directions["learning"].values())
    # In the dtype of the backward pass, where they are multiplied.
    dtype = torch.bfloat16 if base.bf16 else next(base.model.parameters()).dtype
    if not dtype.is_floating_point:  # quantized
        dtype = torch.float32
    products = {
        number: along({n: direction.pop(n).to(dtype) for n in names})
        for number, direction in directions.items()
    }
    if fisher is not None:
        products["quadratic"] = fisher_norms(fisher)
    products["norm"] = plain_norms
    alpha = run.training.alpha or "auto"
    step = None if alpha == "auto" else float(alpha)
    return weights, products, LearningStats(constant, length, learning, step)


def _measure(
    scratch: Path,
    base: LanguageModel,
    weights: Weights,
    rows: list[TokenRow],
    batches: list[list[int]],
    products: Mapping[str, Product],
    score: Score,
) -> tuple[dict[int, dict[str, float]], Counter[str]]:
    """The numbers of every text at the base model, by index, and each matrix's part in the score.

    A number that is not finite is missing: JSON has no NaN.
    """

    def measure(batch: list[int]) -> list[Row]:
        shares: dict[str, float] = {}
        indices, measured, left_out = finite_batch(
            base,
            rows,
            batch,
            lambda padded: gradient_products(
                base.model, weights, padded, products, base.bf16, (score.direction or "", shares)
            ),
        )
        texts: list[Row] = [{"index": i} for i in (*indices, *left_out)]
        for name, values in (measured or {}).items():
            for row, value in zip(texts, values.tolist(), strict=False):  # none for the left out
                row[name] = value
        return [*texts, {"index": -1, "shares": shares}]

    numbers, shares = {}, Counter[str]()
    for row in in_chunks("score", scratch, batches, measure):
        shares.update(row.pop("shares", {}))
        index = row.pop("index")
        if "loss" in row:
            row["loss_base"] = row.pop("loss")
        numbers[index] = row
    return numbers, shares


def _row(text: Row, measured: Numbers, name: str, score: Score, stats: LearningStats) -> Row:
    numbers = {number: measured.get(number, math.nan) for number in NUMBERS}
    return {
        **numbers,
        "id": text["id"],
        "forget_set": text["forget_set"],
        "tokens": len(text["completion_ids"]),
        "interference": numbers["loss_probe"] - numbers["loss_base"],
        "confidence": score(numbers, stats),
        "score": name,
    }


def _metadata(score: Score, stats: LearningStats, shares: Counter[str]) -> dict[str, str]:
    """What the file's schema holds: with it another score or alpha needs no new gradient."""
    metadata = {
        name: repr(value)
        for name in ("constant", "length", "learning")
        if not math.isnan(value := getattr(stats, name))
    }
    if shares:
        metadata["shares"] = json.dumps(shares)
    if score.uses_alpha:
        metadata["alpha"] = "auto" if stats.alpha is None else repr(stats.alpha)
    return metadata


def _check(table: list[Row], skip_non_finite: bool) -> None:
    """Name the first text without a finite confidence; stop if such texts may not be skipped."""
    bad = [row for row in table if not math.isfinite(row["confidence"])]
    if not bad:
        return
    of_base = sum(not math.isfinite(row["loss_base"]) for row in bad)
    optimum.leave_out_or_stop(
        f"the confidence of {len(bad)} of {len(table)} texts is not a finite number "
        f"(first: {bad[0]['id']}; {of_base} have no finite loss under the base model)",
        "if plain fine-tuning has diverged, lower --learning_rate and run `letgo probe "
        "--overwrite true`; or leave such texts out by --skip_non_finite",
        skip_non_finite and len(bad) < len(table),
    )
