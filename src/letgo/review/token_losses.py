"""How hard each token of a text is for the base model; the model is loaded when first asked."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from letgo.run.base import load_base, load_base_tokenizer
from letgo.run.folder import read_table

Piece = tuple[str, float]
# Texts are opened in threads; a model that two of them load at once may come out broken.
_one_by_one = Lock()


@cache
def load(folder: Path) -> tuple[Any, Any, bool]:
    """The base model of a run, its tokenizer, and whether it computes in bfloat16.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers.utils import logging

    from letgo.run import config as cfg

    logging.disable_progress_bar()
    settings = cfg.read(folder / "config.yaml")
    config = cfg.parse("review", ["--output_dir", str(folder)], settings)
    tokenizer = load_base_tokenizer(config)
    return load_base(config), tokenizer, bool(config.training.bf16)


def pieces(folder: Path, name: str) -> list[Piece]:
    """The answer of a text in pieces, each with the NLL of its tokens under the base model.

    Args:
        folder: of the run.
        name: the text's id.

    Returns:
        (letters, nats) of each piece; a letter of several tokens is one piece with their sum.

    Raises:
        InputError: as `load`.
    """
    with _one_by_one:
        model, tokenizer, bf16 = load(folder)
    columns = ["id", "prompt_ids", "completion_ids"]
    file = folder / "self_knowledge.parquet"
    row = read_table(file, columns, [("id", "==", name)]).to_pylist()[0]
    answer = row["completion_ids"]
    return letters(tokenizer, answer, losses(model, row["prompt_ids"], answer, bf16))


def losses(model: Any, prompt: Sequence[int], answer: Sequence[int], bf16: bool) -> list[float]:
    """NLL of every token of an answer, in nats.

    Args:
        model: any causal language model.
        prompt: token ids before the answer.
        answer: token ids.
        bf16: whether to compute in bfloat16.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from letgo.models.inference import autocast

    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.inference_mode(), autocast(bf16):
        logits = model(input_ids=ids, use_cache=False).logits[0]  # (tokens, vocabulary)
    said = logits[len(prompt) - 1 : -1].float()
    nll = cross_entropy(said, ids[0, len(prompt) :], reduction="none")
    return [float(value) for value in nll]


def letters(tokenizer: Any, ids: Sequence[int], values: Sequence[float]) -> list[Piece]:
    """Tokens as the letters they add to the text, with their values.

    Args:
        tokenizer: of the model.
        ids: token ids.
        values: in the same order; those of tokens that end within a letter are summed.
    """
    found: list[Piece] = []
    shown, total = "", 0.0
    for end, value in enumerate(values, start=1):
        text, total = tokenizer.decode(ids[:end]), total + value
        if text.endswith("\ufffd") and end < len(ids):
            continue
        found.append((text[len(shown) :], total))
        shown, total = text, 0.0
    return found
