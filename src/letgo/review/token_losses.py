"""NLL of each token of an answer, under models of the run that are loaded on first use."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from letgo.models.inference import LanguageModel, autocast
from letgo.review.html import Piece
from letgo.run import config as cfg
from letgo.run.base import load_base, load_trained
from letgo.run.folder import PROBE, SELF_KNOWLEDGE, read_table, readable

# Requests run in threads; two of them loading one model at once could corrupt it.
_loading = Lock()


@cache
def load(folder: Path) -> tuple[LanguageModel, LanguageModel | None]:
    """The base model of a run, and the plainly fine-tuned one if there is one.

    Raises:
        InputError: a model cannot be loaded.
    """
    logging.disable_progress_bar()
    config = cfg.of_folder("review", folder)
    probe = folder / PROBE.name
    is_model = any((probe / f"{kind}config.json").exists() for kind in ("", "adapter_"))
    return load_base(config), load_trained(config, probe) if is_model else None


def losses_by_piece(folder: Path, name: str) -> list[Piece]:
    """The answer of a text in pieces, each with the NLL of its tokens under the base model.

    And, where there is a fine-tuned model, with how much learning has raised it: the interference
    of the tokens. Tokens that share a character are one piece.

    Raises:
        InputError: as in `load`.
    """
    with _loading:
        lm, tuned = load(folder)
    columns = ["id", "prompt_ids", "completion_ids"]
    file = folder / SELF_KNOWLEDGE.name
    with readable(file):
        row = read_table(file, columns, [("id", "==", name)]).to_pylist()[0]
    prompt, answer = row["prompt_ids"], row["completion_ids"]
    before = join_tokens(lm.tokenizer, answer, token_losses(lm, prompt, answer))
    if tuned is None:
        return [(text, nll, None) for text, nll in before]
    after = join_tokens(lm.tokenizer, answer, token_losses(tuned, prompt, answer))
    pairs = zip(before, after, strict=True)
    return [(text, nll, changed - nll) for (text, nll), (_, changed) in pairs]


def token_losses(lm: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """NLL in nats of every token of an answer, given token ids."""
    ids = torch.tensor([[*prompt, *answer]], device=lm.model.device)
    with torch.inference_mode(), autocast(lm.bf16):
        logits = lm.model(input_ids=ids, use_cache=False).logits[0]  # (tokens, vocabulary)
    predictions = logits[len(prompt) - 1 : -1].float()  # (answer tokens, vocabulary)
    nll = cross_entropy(predictions, ids[0, len(prompt) :], reduction="none")
    return [float(value) for value in nll]


def join_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], values: Sequence[float]
) -> list[tuple[str, float]]:
    """Tokens as strings; tokens that end within a character are joined and their values added."""
    pieces: list[tuple[str, float]] = []
    previous, total = "", 0.0
    for end, value in enumerate(values, start=1):
        text, total = tokenizer.decode(ids[:end]), total + value
        if text.endswith("\ufffd") and end < len(ids):
            continue
        pieces.append((text[len(previous) :], total))
        previous, total = text, 0.0
    return pieces
