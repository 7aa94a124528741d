"""A language model with its tokenizer: losses and greedy answers, a batch at a time."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from letgo.models.loading import device

Row = dict[str, list[int]]  # `input_ids` and `labels` of one example, as `data.tokens.training_row`


class Batch(NamedTuple):
    """Right-padded examples: each tensor (batch, tokens), int64."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, its tokenizer, and how they are used."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bf16: bool = False  # whether to compute in bfloat16 (autocast)
    max_length: int | None = None  # of prompt and answer in tokens, within the model's context
    rules: Sequence[LogitsProcessor] = ()  # for generation; `begin`, if any, precedes a batch

    @property
    def limit(self) -> int:
        """The most tokens of prompt and answer together."""
        return context_length(self.model.config, self.max_length)

    @property
    def stops(self) -> set[int]:
        """The token ids that end an answer, by the tokenizer and by the generation config."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return {i for i in [*ids, self.tokenizer.eos_token_id] if i is not None}

    def pad(self, rows: Sequence[Row]) -> Batch:
        """A padded batch of rows, on the model's device."""
        batch = pad_rows(rows, self.tokenizer.pad_token_id)
        return Batch(*(tensor.to(self.model.device) for tensor in batch))

    @torch.inference_mode()
    def losses(self, rows: Sequence[Row]) -> list[float]:
        """Mean NLL of each row's labels, nats per token, without a gradient."""
        with autocast(self.bf16):
            return example_losses(self.model, self.pad(rows)).tolist()

    @torch.inference_mode()
    def top_log_probs(
        self, rows: Sequence[Row], k: int
    ) -> list[tuple[list[list[int]], list[list[float]]]]:
        """The k likeliest tokens at each label and their log-probabilities, for each row."""
        with autocast(self.bf16):
            return top_log_probs(self.model, self.pad(rows), k)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, streamer: Any = None
    ) -> list[list[int]]:
        """Greedy answers to one batch of prompts, which are lists of token ids.

        A prompt that leaves less room within the limit gets a shorter answer, or an empty one; the
        answers to the other prompts are as long as they would be without it. A streamer of
        transformers gets the tokens of a single prompt's answer as they are generated.

        Returns:
            the at most `max_new_tokens` new ids of each answer, with the token that ended it.
        """
        rooms = [min(max_new_tokens, self.limit - len(prompt)) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        for room in sorted({room for room in rooms if room > 0}):
            indices = [i for i, other in enumerate(rooms) if other == room]
            new = self._greedy([prompts[i] for i in indices], room, streamer)
            for index, ids in zip(indices, new, strict=True):
                answers[index] = ids
        return answers

    def _greedy(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, streamer: Any
    ) -> list[list[int]]:
        """Greedy answers of at most `new_tokens` to prompts that leave room for them."""
        width, pad, stops = max(map(len, prompts)), self.tokenizer.pad_token_id, self.stops
        ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, pad_token_id=pad, eos_token_id=sorted(stops)
        )
        # Settings that are not given are taken from the model's generation_config.json, which may
        # forbid, force or penalise tokens.
        configured, self.model.generation_config = self.model.generation_config, GenerationConfig()
        for rule in self.rules:
            getattr(rule, "begin", lambda: None)()
        try:
            with autocast(self.bf16):
                generated = self.model.generate(
                    input_ids=torch.tensor(ids, device=self.model.device),
                    attention_mask=torch.tensor(mask, device=self.model.device),
                    generation_config=settings,
                    streamer=streamer,
                    logits_processor=[*self.rules],
                )
        finally:
            self.model.generation_config = configured
        answers = []
        for row in generated[:, width:].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            answers.append(row[:end])
        return answers


def autocast(bf16: bool) -> AbstractContextManager[None]:
    """bfloat16 autocast on the current device, or nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=bf16)


def round_weights(layers: Iterable[Any]) -> None:
    """Round the weights of linear layers to bfloat16 once, instead of in every call under autocast.

    Under autocast the model computes the same numbers as before, in three quarters of the time when
    it generates. Not for a model to be trained. An embedding that shares its weight with a layer
    keeps its own precision.
    """
    for layer in layers:
        weight = layer.weight
        if weight.dtype == torch.float32:  # not so in a quantized layer
            layer.weight = nn.Parameter(weight.detach().bfloat16(), weight.requires_grad)


def context_length(model_config: PreTrainedConfig, max_length: int | None) -> int:
    """The model's context length in tokens, or `max_length` where that is shorter."""
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return min(value for value in (limit, max_length, 1 << 30) if value is not None)


def pad_rows(rows: Sequence[Row], pad_token_id: int) -> Batch:
    """A padded batch of rows, on the current device."""

    def stack(name: str, value: int) -> Tensor:
        tensors = [torch.tensor(row[name]) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(device())

    ids = stack("input_ids", pad_token_id)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    return Batch(ids, mask, stack("labels", -100))


def predictions(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the model predicts from the first label of the batch on.

    Returns:
        logits (batch, positions, vocabulary), and the labels (batch, positions) that they predict,
        of which -100 marks a token without a label.
    """
    # Logits before the first label of the whole batch are not needed, and logits (vocabulary-wide)
    # are most of the memory.
    predicted = (batch.labels[:, 1:] != -100).any(0).nonzero()
    first = int(predicted[0]) if len(predicted) else 0
    count = batch.labels.shape[1] - first
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        logits_to_keep=count,
    ).logits[:, -count:]
    return logits[:, :-1], batch.labels[:, first + 1 :]


def labelled_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (labels, vocabulary) that predict each label, float32, example after example."""
    logits, targets = predictions(model, batch)
    return logits[targets != -100].float()


def top_log_probs(
    model: nn.Module, batch: Batch, k: int
) -> list[tuple[list[list[int]], list[list[float]]]]:
    """The k likeliest tokens at each label, and their log-probabilities, for each example.

    Args:
        k: at most the size of the vocabulary; 0 gives empty lists.
    """
    counts = (batch.labels[:, 1:] != -100).sum(1).tolist()
    if not k:
        return [([[]] * n, [[]] * n) for n in counts]
    logits = labelled_logits(model, batch)
    top = logits.log_softmax(-1).topk(min(k, logits.shape[-1]))
    ids, values = (torch.split(part, counts) for part in (top.indices, top.values))
    return [(i.tolist(), v.tolist()) for i, v in zip(ids, values, strict=True)]


def label_log_probs(model: nn.Module, batch: Batch) -> list[list[float]]:
    """The log-probability of each label, for each example."""
    counts = (batch.labels[:, 1:] != -100).sum(1).tolist()
    logits, labels = labelled_logits(model, batch), batch.labels[:, 1:]
    chosen = -cross_entropy(logits, labels[labels != -100], reduction="none")
    return [part.tolist() for part in torch.split(chosen, counts)]


def example_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Mean NLL over the labels of each example, as TRL's loss on a batch of one.

    The label -100 marks a token that is not predicted.

    Returns:
        (batch,) float32, nats per token; 0 for an example without labels.
    """
    logits, targets = predictions(model, batch)
    # Flat: with the vocabulary in the middle a CPU walks it in strides, twice the cost of a step.
    nll = cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none"
    ).view_as(targets)
    return nll.sum(1) / (targets != -100).sum(1).clamp(min=1)
