"""The texts to unlearn: checked, selected, tokenized, with their log-probability at the start."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from letgo.data.habits import Habit
from letgo.data.tokens import training_row
from letgo.errors import InputError
from letgo.progress import log
from letgo.scoring.scores import Score, top_fraction
from letgo.unlearning.checks import check_overlap, check_tokens
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.labels import Row, labels_of, mark, right_answers, with_references, with_right
from letgo.unlearning.losses import LOSSES


class Chosen(NamedTuple):
    """The texts of a run and which of them it unlearns; all indices are rows of the dataset.

    Attributes:
        total: number of texts.
        indices: the texts chosen before training.
        allowed: the texts that re-scoring may choose; `indices` without re-scoring.
        forced: the texts that re-scoring always chooses.
        confidence: of all texts; empty if the dataset has none.
        score: name of the score that `confidence` is; empty if the dataset does not name it.
    """

    total: int
    indices: list[int]
    allowed: list[int]
    forced: list[int]
    confidence: list[float]
    score: str

    def describe(self) -> list[str]:
        """Number and confidence of the texts, as lines for the model card."""
        lines = [f"{self.total} self-generated texts, {len(self.indices)} of them unlearned"]
        if len(self.allowed) > len(self.indices):
            lines.append(f"re-scoring may choose among {len(self.allowed)} of them")
        if self.forced:
            lines.append(f"{len(self.forced)} of them unlearned because a person selected them")
        if self.score:
            lines.append(f"score: {self.score}")
        if self.confidence:
            values = np.asarray(self.confidence)
            for name, part in (("all", values), ("unlearned", values[self.indices])):
                cuts = ", ".join(f"{q:.4g}" for q in np.quantile(part, [0, 0.25, 0.5, 0.75, 1]))
                lines.append(f"confidence of {name} texts (quartiles): {cuts}")
        return lines


def score_name(dataset: Dataset) -> str:
    """The name of the score behind `confidence`, from the column `score`; empty without one."""
    return str(dataset["score"][0]) if "score" in dataset.column_names else ""


def prepare(
    dataset: Dataset,
    learning: Iterable[Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: LWFConfig,
    tokenize: Callable[[Dataset], Dataset],
    score: Score | None,
    habits: Mapping[str, Habit],
) -> tuple[Dataset, Dataset, Chosen]:
    """Check the texts, choose among them and tokenize them.

    Args:
        dataset: the texts, as for `labelled_rows`; its other columns as for `choose`.
        learning: rows of the learning data, as for `checks.examples`.
        model, tokenizer, args: of the training, before its first step.
        tokenize: as for `labelled_rows`.
        score: the score that re-scoring uses; None for a run without re-scoring.
        habits: by name; the column `habit` has the names, a single habit needs none. They mark the
            tokens to unlearn of texts that have no column `span`.

    Returns:
        Rows with `input_ids`, `labels` and `reference` of the texts to unlearn, such rows of all
        texts that re-scoring may choose, and which texts these are.

    Raises:
        InputError: a check fails, or no text has an answer within `max_length`.
    """
    check_tokens(dataset, tokenizer, model.config.get_text_config().vocab_size)
    chosen = choose(dataset, args.forget_fraction, score is not None)
    candidates = dataset.select(chosen.allowed)
    remaining, rows = labelled_rows(candidates, tokenize)
    if len(remaining) < len(chosen.allowed):
        count = len(chosen.allowed) - len(remaining)
        log.warning("%d texts to unlearn are left out: they have no answer in --max_length", count)
    check_overlap(learning, rows, args.forget_max_overlap)
    remaining, rows = _unlearned_rows(
        candidates, remaining, rows, model, tokenizer, args, tokenize, score, habits
    )
    allowed = [chosen.allowed[i] for i in remaining]
    indices = sorted({*chosen.indices} & {*allowed})
    if not indices:
        raise InputError(
            "forget_dataset (--forget): no text has an answer within --max_length; raise it"
        )
    forced = sorted({*chosen.forced} & {*allowed})
    chosen = chosen._replace(indices=indices, allowed=allowed, forced=forced)
    if len(indices) < args.per_device_train_batch_size:
        log.warning(
            "the %d texts to unlearn are fewer than a batch of %d: every unlearning step uses all "
            "of them",
            len(indices),
            args.per_device_train_batch_size,
        )
    first = set(indices)
    candidates = Dataset.from_list(rows)
    forget = candidates.select([i for i, index in enumerate(allowed) if index in first])
    return forget, candidates, chosen


def _unlearned_rows(
    dataset: Dataset,
    indices: list[int],
    rows: list[Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: LWFConfig,
    tokenize: Callable[[Dataset], Dataset],
    score: Score | None,
    habits: Mapping[str, Habit],
) -> tuple[list[int], list[Row]]:
    """The rows with the labels that are unlearned, and all that their loss reads.

    Texts without the habit, and without a right answer that the loss needs, are left out.

    Args:
        dataset: of the texts.
        indices, rows: of `labelled_rows`.
    """
    loss, by_token = LOSSES[args.unlearning_loss], args.forget_tokens == "conflict"
    of_all, spans = habit_names(dataset, habits), [None] * len(rows)
    names = [of_all[i] for i in indices]
    if "span" in dataset.column_names:
        column = list(dataset["span"])
        spans = [column[i] for i in indices]
    rights = {}
    if loss.pairs:
        rights = right_answers(dataset, lambda chosen: labelled_rows(chosen, tokenize))
    kept: list[tuple[int, Row]] = []
    for index, row, name, span in zip(indices, rows, names, spans, strict=True):
        if args.asks(name):  # what the base model said does not matter
            wanted: Row | None = row
        else:
            if span is None and name:
                span = habits[name].mask(tokenizer, labels_of(row))
            wanted = mark(row, span, args.forget_tokens)
        if wanted and (not loss.pairs or index in rights):
            kept.append((index, {**wanted, "habit": name} if any(names) else wanted))
    _check_marked(args.forget_tokens, rows, kept, any(names) or any(spans))
    needed = loss.needs_reference or bool(score and "loss_base" in score.needs)
    reading = model, tokenizer.pad_token_id, bool(args.bf16)
    chosen = with_references([row for _, row in kept], *reading, needed, by_token)
    if loss.pairs:
        answers = with_references([rights[i] for i, _ in kept], *reading, True, False)
        chosen = [with_right(*pair) for pair in zip(chosen, answers, strict=True)]
    return [index for index, _ in kept], chosen


def habit_names(dataset: Dataset, habits: Mapping[str, Habit]) -> list[str]:
    """The name of each text's habit, by its column `habit` or the only one; empty for none."""
    if "habit" in dataset.column_names:
        return [name or "" for name in dataset["habit"]]
    return [next(iter(habits), "")] * len(dataset)


def _check_marked(
    tokens: str | None, rows: list[Row], kept: list[tuple[int, Row]], marks: bool
) -> None:
    """Refuse spans without a habit, and a habit that no text shows."""
    if tokens == "span" and not marks:
        raise InputError(
            "--forget_tokens span: no token of the texts is marked; name a habit by --forget "
            "self:loops or --forget_pattern, or unlearn all tokens"
        )
    if rows and not kept:
        raise InputError(
            "forget_dataset (--forget): none of the texts shows the habit, so there is nothing to "
            "unlearn; use other prompts or another pattern, or --self_knowledge current"
        )
    if len(kept) < len(rows):
        message = "%d of %d texts are left out: they do not show the habit, or lack what is needed"
        log.info(message, len(rows) - len(kept), len(rows))


def choose(dataset: Dataset, fraction: float, rescoring: bool) -> Chosen:
    """The texts to unlearn.

    Args:
        dataset: texts, with optional columns. `selected` (bool): only these texts are unlearned.
            `confidence`: the texts with the highest values are chosen, unless `selected` decides
            and there is no re-scoring. `allowed` (bool): with re-scoring, `selected` are the texts
            chosen at first and re-scoring chooses among the allowed ones. `forced` (bool):
            re-scoring always chooses these texts. `score`: name of the score behind `confidence`.
        fraction: fraction of the texts to choose by confidence.
        rescoring: whether texts are chosen again during training.

    Raises:
        InputError: no text is selected.
    """
    columns = dataset.column_names

    def marked(name: str) -> list[int]:
        return [index for index, mark in enumerate(dataset[name]) if mark]

    confidence = list(dataset["confidence"]) if "confidence" in columns else []
    indices = marked("selected") if "selected" in columns else list(range(len(dataset)))
    allowed = marked("allowed") if rescoring and "allowed" in columns else indices
    if not indices:
        raise InputError(
            "forget_dataset (--forget): no text is selected for unlearning; select at least one"
        )
    if "allowed" not in columns and confidence and (rescoring or "selected" not in columns):
        values = [confidence[i] if math.isfinite(confidence[i]) else -math.inf for i in indices]
        indices = sorted(top_fraction(indices, values, fraction))
    forced = marked("forced") if "forced" in columns else []
    allowed = allowed if rescoring else indices
    return Chosen(len(dataset), indices, allowed, forced, confidence, score_name(dataset))


def labelled_rows(
    dataset: Dataset, tokenize: Callable[[Dataset], Dataset]
) -> tuple[list[int], list[Row]]:
    """The texts as rows with `input_ids`, `labels` and, if the dataset has it, `reference`.

    Args:
        dataset: as `letgo elicit` writes it (its token ids are used unchanged), rows with
            `input_ids` and `labels`, or a TRL format.
        tokenize: converts a TRL format to `input_ids` and `labels` with masked prompts; it may drop
            rows.

    Returns:
        The indices of the remaining texts in `dataset`, and their rows.

    Raises:
        InputError: prompts without answers, or token ids without labels.
    """
    columns = set(dataset.column_names)
    indices = list(range(len(dataset)))
    if {"prompt_ids", "completion_ids"} <= columns:
        rows = [training_row(row["prompt_ids"], row["completion_ids"]) for row in dataset]
    elif {"input_ids", "labels"} <= columns:
        rows = dataset.to_list()
    elif "input_ids" in columns:
        raise InputError(
            "forget_dataset (--forget): rows of `input_ids` need `labels`, with -100 at the "
            "prompt's tokens"
        )
    elif {"completion", "messages", "text"} & columns:
        numbered = answers(dataset).add_column("letgo_index", indices)
        rows = tokenize(numbered).to_list()
        indices = [row["letgo_index"] for row in rows]
    else:
        raise InputError(
            "forget_dataset (--forget): the prompts have no answers; `letgo elicit` generates them"
        )
    if {"mean_logprob", "completion_ids"} <= columns:
        reference = [row["mean_logprob"] * len(row["completion_ids"]) for row in dataset]
        rows = [{**row, "reference": r} for row, r in zip(rows, reference, strict=True)]
    if "weight" in columns:
        weights = dataset["weight"]
        rows = [{**row, "weight": weights[i]} for i, row in zip(indices, rows, strict=True)]
    names = ("input_ids", "labels", "reference", "weight")
    return indices, [{name: row[name] for name in names if name in row} for row in rows]


def answers(dataset: Dataset) -> Dataset:
    """Conversations (`messages`) as prompts and completions; the last answer is the completion.

    Raises:
        InputError: a conversation does not end with an answer to something.
    """
    if "messages" not in dataset.column_names or "completion" in dataset.column_names:
        return dataset
    if any(len(m) < 2 or m[-1]["role"] != "assistant" for m in dataset["messages"]):
        raise InputError(
            "forget_dataset (--forget): every conversation in `messages` must end with an answer"
        )
    return dataset.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=[name for name in ("messages", "prompt") if name in dataset.column_names],
    )
