"""The texts to unlearn, as a trainer is given them: checked, selected, with their reference."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from letgo.data import batches_by_tokens, top_fraction, training_row
from letgo.errors import InputError
from letgo.inference import Batch, autocast, example_losses, pad_rows
from letgo.progress import log


class Chosen(NamedTuple):
    """The self-generated texts of a run and those of them that it unlearns.

    Attributes:
        known: how many there were to choose from.
        places: of the chosen ones.
        confidence: of all texts; empty where it is not known.
    """

    known: int
    places: list[int]
    confidence: list[float]

    def describe(self) -> list[str]:
        """Size and confidence of the texts, for the model card."""
        lines = [f"{self.known} self-generated texts, {len(self.places)} of them unlearned"]
        if self.confidence:
            values = np.asarray(self.confidence)
            for name, part in (("all", values), ("unlearned", values[self.places])):
                cuts = ", ".join(f"{q:.4g}" for q in np.quantile(part, [0, 0.25, 0.5, 0.75, 1]))
                lines.append(f"confidence of {name} texts (quartiles): {cuts}")
        return lines


def prepare(
    dataset: Dataset, learning: Iterable[dict[str, Any]], model: Any, tokenizer: Any, args: Any,
    tokenize: Callable[[Dataset], Dataset],
) -> tuple[Dataset, Dataset, Chosen]:  # fmt: skip
    """Check the texts, choose among them and bring them to rows of tokens.

    Args:
        dataset: as for `labelled_rows`, with a column as for `choose` where there is one.
        learning: the learning data's rows, as for `prompts`.
        model: the base model before its first step.
        tokenizer: its tokenizer.
        args: an `LWFConfig`.
        tokenize: as for `labelled_rows`.

    Returns:
        Rows with `input_ids`, `labels` and `reference` of the texts to unlearn, and of those to
        choose from when they are scored again; what was chosen.

    Raises:
        InputError: as the functions below say.
    """
    check_tokens(dataset, tokenizer, model.config.get_text_config().vocab_size)
    chosen = choose(dataset, args.forget_fraction)
    places = range(len(dataset)) if args.rescore_interval else chosen.places
    rows = labelled_rows(dataset.select(places), tokenize)
    check_overlap(learning, rows, args.forget_max_overlap)
    count, batch_size = len(chosen.places), args.per_device_train_batch_size
    if count < batch_size:
        log.warning("%d texts to unlearn are fewer than a batch of %d: every unlearning step "
                    "takes them all", count, batch_size)  # fmt: skip
    reference = [row.get("reference", 0.0) for row in rows]
    if args.unlearning_loss == "npo" and "reference" not in rows[0]:
        reference = reference_log_probs(model, rows, tokenizer.pad_token_id, bool(args.bf16))
    rows = [{**row, "reference": value} for row, value in zip(rows, reference, strict=True)]
    known = Dataset.from_list(rows)
    return (known.select(chosen.places) if args.rescore_interval else known), known, chosen


def choose(dataset: Dataset, fraction: float) -> Chosen:
    """Which texts to unlearn.

    Args:
        dataset: texts; `selected` says which, else the top `fraction` by `confidence`, else all.
        fraction: share of them, most confident first.

    Raises:
        InputError: none is selected.
    """
    columns = dataset.column_names
    confidence = list(dataset["confidence"]) if "confidence" in columns else []
    places = list(range(len(dataset)))
    if "selected" in columns:
        places = [place for place, selected in enumerate(dataset["selected"]) if selected]
    elif confidence:
        places = sorted(top_fraction(places, confidence, fraction))
    if not places:
        raise InputError("--forget: no text is selected for unlearning; select some")
    return Chosen(len(dataset), places, confidence)


def check_tokens(dataset: Dataset, tokenizer: Any, vocabulary: int) -> None:
    """Refuse texts that another tokenizer has made.

    Args:
        dataset: rows as `letgo elicit` writes them, or with `input_ids`; others pass.
        tokenizer: of the model to be trained.
        vocabulary: how many tokens the model has.

    Raises:
        InputError: a token that the model does not have, or one that stands for another text.
    """
    names = [name for name in ("input_ids", "prompt_ids", "completion_ids")
             if name in dataset.column_names]  # fmt: skip
    remedy = "elicit the texts again with this model (`letgo elicit`)"
    for row in dataset:
        highest = max((max(row[name], default=0) for name in names), default=0)
        if highest >= vocabulary:
            raise InputError(
                f"--forget: the texts are from another tokenizer: they hold token {highest}, this "
                f"one has {len(tokenizer)}; {remedy}"
            )
        if "completion_ids" in names and isinstance(row.get("completion"), str):
            text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
            if text != row["completion"]:
                raise InputError(
                    f"--forget: the texts are from another tokenizer: the tokens of "
                    f"{row['completion'][:40]!r} stand for {text[:40]!r} in this one; {remedy}"
                )


def labelled_rows(dataset: Dataset, tokenize: Callable[[Dataset], Dataset]) -> list[dict[str, Any]]:
    """Rows with `input_ids`, `labels` and, where it is known, `reference`.

    Args:
        dataset: as `letgo elicit` writes it (its tokens are taken as they are), with `input_ids`
            and `labels`, or in a TRL format.
        tokenize: what brings a TRL format to `input_ids` and `labels`.

    Raises:
        InputError: prompts without answers.
    """
    columns = set(dataset.column_names)
    if {"prompt_ids", "completion_ids"} <= columns:
        rows = [training_row(row["prompt_ids"], row["completion_ids"]) for row in dataset]
    elif "input_ids" in columns or {"completion", "messages", "text"} & columns:
        rows = (dataset if "input_ids" in columns else tokenize(dataset)).to_list()
    else:
        raise InputError("--forget: prompts without answers; `letgo elicit` makes the answers")
    if {"mean_logprob", "completion_ids"} <= columns:
        reference = [row["mean_logprob"] * len(row["completion_ids"]) for row in dataset]
        rows = [{**row, "reference": r} for row, r in zip(rows, reference, strict=True)]
    kept = ("input_ids", "labels", "reference")
    return [{name: row[name] for name in kept if name in row} for row in rows]


def prompts(rows: Iterable[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The token ids before the first label of every example, where there are any.

    Args:
        rows: `input_ids`, `labels`, and `seq_lengths` where several examples are packed into one.
    """
    found: list[tuple[int, ...]] = []
    for row in rows:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            labels = (row.get("labels") or row["input_ids"])[start : start + length]
            first = next((i for i, label in enumerate(labels) if label != -100), len(labels))
            if first:
                found.append(tuple(row["input_ids"][start : start + first]))
            start += length
    return found


def check_overlap(
    learning: Iterable[dict[str, Any]], forget: Sequence[dict[str, Any]], most: float
) -> None:
    """Count the texts to unlearn that answer a prompt of the learning data.

    Args:
        learning, forget: rows as for `prompts`.
        most: share of them that may.

    Raises:
        InputError: they are more.
    """
    asked = set(prompts(learning))
    count = sum(prompt in asked for prompt in prompts(forget))
    said = f"{count} of {len(forget)} texts to unlearn answer a learning prompt"
    if count > most * len(forget):
        raise InputError(
            f"--forget: {said}, more than --forget_max_overlap {most:g}: unlearning them may undo "
            f"the learning; give other prompts, or raise it if that is meant"
        )
    if count:
        log.warning("%s", said)


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
