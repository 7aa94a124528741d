"""The texts to unlearn, as a trainer is given them: checked, selected, with their reference."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from letgo.data.tokens import batches_by_tokens, training_row
from letgo.errors import InputError
from letgo.models.inference import Batch, autocast, example_losses, pad_rows
from letgo.progress import log
from letgo.scoring.scores import top_fraction
from letgo.unlearning.checks import check_overlap, check_tokens


class Chosen(NamedTuple):
    """The self-generated texts of a run and those of them that it unlearns.

    Attributes:
        known: how many there are.
        places: of the chosen ones.
        allowed: places of those that re-scoring may choose; without it the chosen ones.
        forced: places of those that are unlearned whatever re-scoring chooses.
        confidence: of all texts; empty where it is not known.
        score: what `confidence` is; empty where it is not known.
    """

    known: int
    places: list[int]
    allowed: list[int]
    forced: list[int]
    confidence: list[float]
    score: str

    def describe(self) -> list[str]:
        """Size and confidence of the texts, for the model card."""
        lines = [f"{self.known} self-generated texts, {len(self.places)} of them unlearned"]
        if len(self.allowed) > len(self.places):
            lines.append(f"re-scoring chooses anew among {len(self.allowed)} of them")
        if self.forced:
            lines.append(f"{len(self.forced)} of them unlearned because a person said so")
        if self.score:
            lines.append(f"score: {self.score}")
        if self.confidence:
            values = np.asarray(self.confidence)
            for name, part in (("all", values), ("unlearned", values[self.places])):
                cuts = ", ".join(f"{q:.4g}" for q in np.quantile(part, [0, 0.25, 0.5, 0.75, 1]))
                lines.append(f"confidence of {name} texts (quartiles): {cuts}")
        return lines


def prepare(
    dataset: Dataset,
    learning: Iterable[dict[str, Any]],
    model: Any,
    tokenizer: Any,
    args: Any,
    tokenize: Callable[[Dataset], Dataset],
) -> tuple[Dataset, Dataset, Chosen]:
    """Check the texts, choose among them and bring them to rows of tokens.

    Args:
        dataset: as for `labelled_rows`, with a column as for `choose` where there is one.
        learning: the learning data's rows, as for `checks.examples`.
        model: the base model before its first step.
        tokenizer: its tokenizer.
        args: an `LWFConfig`.
        tokenize: as for `labelled_rows`.

    Returns:
        Rows with `input_ids`, `labels` and `reference` of the texts to unlearn, and of those to
        choose from when they are scored again; what was chosen.

    Raises:
        InputError: as the functions below say, or nothing is left of any text.
    """
    check_tokens(dataset, tokenizer, model.config.get_text_config().vocab_size)
    chosen = choose(dataset, args.forget_fraction, args.rescore_interval != 0)
    kept, rows = labelled_rows(dataset.select(chosen.allowed), tokenize)
    if len(kept) < len(chosen.allowed):
        log.warning(
            "%d texts to unlearn are left out: within --max_length they have no answer",
            len(chosen.allowed) - len(kept),
        )
    allowed = [chosen.allowed[i] for i in kept]
    places = sorted({*chosen.places} & {*allowed})
    if not places:
        raise InputError("--forget: no text has an answer within --max_length; raise it")
    forced = sorted({*chosen.forced} & {*allowed})
    chosen = chosen._replace(places=places, allowed=allowed, forced=forced)
    check_overlap(learning, rows, args.forget_max_overlap)
    if len(places) < args.per_device_train_batch_size:
        log.warning(
            "%d texts to unlearn are fewer than a batch of %d: every unlearning step "
            "takes them all",
            len(places),
            args.per_device_train_batch_size,
        )
    reference = [row.get("reference", 0.0) for row in rows]
    if args.unlearning_loss == "npo" and "reference" not in rows[0]:
        reference = reference_log_probs(model, rows, tokenizer.pad_token_id, bool(args.bf16))
    rows = [{**row, "reference": value} for row, value in zip(rows, reference, strict=True)]
    known, among = Dataset.from_list(rows), set(places)
    forget = known.select([i for i, place in enumerate(allowed) if place in among])
    return forget, known, chosen


def choose(dataset: Dataset, fraction: float, rescoring: bool) -> Chosen:
    """Which texts to unlearn.

    Args:
        dataset: texts; those not in `selected`, where there is such a column, are never unlearned.
            The others all are, unless a column `confidence` decides: without `selected`, and with
            re-scoring, whose first choice it is. A column `score` names it. With a column
            `allowed`, `selected` is the first choice and re-scoring chooses among what is allowed;
            a column `forced` marks texts it must not leave out.
        fraction: share of them, most confident first.
        rescoring: whether texts are chosen anew while training.

    Raises:
        InputError: none is selected.
    """
    columns = dataset.column_names

    def marked(name: str) -> list[int]:
        return [place for place, mark in enumerate(dataset[name]) if mark]

    confidence = list(dataset["confidence"]) if "confidence" in columns else []
    places = marked("selected") if "selected" in columns else list(range(len(dataset)))
    allowed = marked("allowed") if rescoring and "allowed" in columns else places
    if not places:
        raise InputError("--forget: no text is selected for unlearning; select some")
    if "allowed" not in columns and confidence and (rescoring or "selected" not in columns):
        known = [confidence[p] if math.isfinite(confidence[p]) else -math.inf for p in places]
        places = sorted(top_fraction(places, known, fraction))
    score = str(dataset["score"][0]) if "score" in columns else ""
    return Chosen(
        len(dataset),
        places,
        allowed if rescoring else places,
        marked("forced") if "forced" in columns else [],
        confidence,
        score,
    )


def labelled_rows(
    dataset: Dataset, tokenize: Callable[[Dataset], Dataset]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Rows with `input_ids`, `labels` and, where it is known, `reference`.

    Args:
        dataset: as `letgo elicit` writes it (its tokens are taken as they are), with `input_ids`
            and `labels`, or in a TRL format.
        tokenize: what brings a TRL format to `input_ids` and `labels`, prompts masked; it may leave
            rows out.

    Returns:
        The places in `dataset` of what is left of it, and its rows.

    Raises:
        InputError: prompts without answers, or tokens of which nobody says which are the answer.
    """
    columns = set(dataset.column_names)
    places = list(range(len(dataset)))
    if {"prompt_ids", "completion_ids"} <= columns:
        rows = [training_row(row["prompt_ids"], row["completion_ids"]) for row in dataset]
    elif {"input_ids", "labels"} <= columns:
        rows = dataset.to_list()
    elif "input_ids" in columns:
        raise InputError("--forget: rows of `input_ids` need `labels`, -100 at the prompt's tokens")
    elif {"completion", "messages", "text"} & columns:
        numbered = answers(dataset).add_column("letgo_place", places)
        rows = tokenize(numbered).to_list()
        places = [row["letgo_place"] for row in rows]
    else:
        raise InputError("--forget: prompts without answers; `letgo elicit` makes the answers")
    if {"mean_logprob", "completion_ids"} <= columns:
        reference = [row["mean_logprob"] * len(row["completion_ids"]) for row in dataset]
        rows = [{**row, "reference": r} for row, r in zip(rows, reference, strict=True)]
    kept = ("input_ids", "labels", "reference")
    return places, [{name: row[name] for name in kept if name in row} for row in rows]


def answers(dataset: Dataset) -> Dataset:
    """Conversations (`messages`) as prompts and completions: the last answer is the text.

    Raises:
        InputError: a conversation without a question and an answer.
    """
    if "messages" not in dataset.column_names or "completion" in dataset.column_names:
        return dataset
    if any(len(m) < 2 or m[-1]["role"] != "assistant" for m in dataset["messages"]):
        raise InputError("--forget: every conversation in `messages` must end with an answer")
    return dataset.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=[name for name in ("messages", "prompt") if name in dataset.column_names],
    )


@torch.no_grad()
def reference_log_probs(
    model: Any, rows: Sequence[dict[str, list[int]]], pad_token_id: int, bf16: bool
) -> list[float]:
    """Log-probability of each text under the base model, for `npo`.

    Args:
        model: the base model before its first step; an adapter is switched off.
        rows: `input_ids` and `labels`.
        pad_token_id: for padding batches.
        bf16: compute in bfloat16.
    """
    was_training = model.training
    model.eval()
    found = [0.0] * len(rows)
    base = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    with base, autocast(bf16):
        for places in batches_by_tokens([len(row["input_ids"]) for row in rows], 1024):
            padded = pad_rows([rows[i] for i in places], pad_token_id)
            batch = Batch(*(tensor.to(model.device) for tensor in padded))
            counts = (batch.labels[:, 1:] != -100).sum(1)
            values = (-example_losses(model, batch) * counts).tolist()
            for place, value in zip(places, values, strict=True):
                found[place] = value
    model.train(was_training)
    return found
