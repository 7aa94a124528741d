"""Text that belongs to no task: what a model knows besides, measured by its likelihood."""

from importlib import resources
from typing import Any

import torch

from letgo.data.records import text_fingerprint
from letgo.data.tokens import training_row
from letgo.models.inference import autocast, context_length, example_losses, pad_rows

BATCH = 8


def neutral_texts() -> dict[str, str]:
    """Paragraphs by id: everyday prose, and passages from well-known books, in English."""
    whole = resources.files("letgo.evaluation").joinpath("neutral.txt").read_text(encoding="utf-8")
    return {text_fingerprint(text): text for text in whole.strip().split("\n\n")}


@torch.inference_mode()
def neutral_nll(model: Any, tokenizer: Any, bf16: bool) -> dict[str, float]:
    """Mean NLL of every paragraph, nats per token, all tokens but the first.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer; the text is shown as it is, without a chat template.
        bf16: whether to compute in bfloat16.

    Returns:
        by the paragraph's id.
    """
    limit = context_length(model.config, None)  # of small models the beginnings of texts
    ids = {name: tokenizer(text)["input_ids"][:limit] for name, text in neutral_texts().items()}
    names = sorted(ids, key=lambda name: (len(ids[name]), name))
    found: dict[str, float] = {}
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        rows = [training_row(ids[name][:1], ids[name][1:]) for name in batch]
        with autocast(bf16):
            losses = example_losses(model, pad_rows(rows, tokenizer.pad_token_id))
        found.update(zip(batch, losses.tolist(), strict=True))
    return found
