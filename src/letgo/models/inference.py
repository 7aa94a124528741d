"""The two things every stage asks of a model: losses and answers."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from letgo.models.loading import device


def autocast(bf16: bool) -> AbstractContextManager[None]:
    """bfloat16 autocast on the current device, or nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=bf16)


class Batch(NamedTuple):
    """Right-padded examples: each tensor (batch, tokens), int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def pad_rows(rows: Sequence[dict[str, list[int]]], pad_token_id: int) -> Batch:
    """Stack rows of `data.training_row` on the current device."""

    def stack(name: str, value: int) -> torch.Tensor:
        tensors = [torch.tensor(row[name]) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(device())

    ids = stack("input_ids", pad_token_id)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    return Batch(ids, mask, stack("labels", -100))


def example_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Mean NLL over the completion tokens of each example, as TRL's loss on a batch of one.

    Args:
        model: any causal language model.
        batch: (batch, tokens); label -100 marks what is not predicted.

    Returns:
        (batch,) float32, nats per token; 0 for an example without labels.
    """
    # Positions before the first label of the whole batch predict nothing that is asked for; their
    # logits (vocabulary-wide) are most of the memory.
    asked = (batch.labels[:, 1:] != -100).any(0).nonzero()
    first = int(asked[0]) if len(asked) else 0
    kept = batch.labels.shape[1] - first
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
        logits_to_keep=kept,
    ).logits[:, -kept:]  # (batch, kept, vocabulary)
    targets = batch.labels[:, first + 1 :]  # (batch, kept - 1)
    # Flat: with the vocabulary in the middle a CPU walks it in strides, twice the cost of a step.
    nll = cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none"
    ).view_as(targets)
    return nll.sum(1) / (targets != -100).sum(1).clamp(min=1)


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, bf16: bool
) -> list[list[int]]:
    """Greedy continuations of one batch of prompts.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer; left padding is done here.
        prompts: token ids of each prompt.
        max_new_tokens: longest answer, in tokens.
        bf16: whether to compute in bfloat16.

    Returns:
        the new token ids of each, the end-of-text token included where it was reached.
    """
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    stops = stop_ids(model, tokenizer)
    with autocast(bf16):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=pad,
            eos_token_id=sorted(stops),
        )
    answers = []
    for row in out[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        answers.append(row[:end])
    return answers


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """The token ids that end an answer, by the tokenizer and by the model's generation config."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}


def context_length(model_config: Any, max_length: int | None) -> int:
    """The most tokens of prompt and answer together: the model's limit or `--max_length`."""
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return min(value for value in (limit, max_length, 1 << 30) if value is not None)
