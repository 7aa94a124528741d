"""`letgo merge`: the adapter that a run returned, merged into its base model."""

import tempfile
from pathlib import Path

import torch

from letgo.cli.commands import silence_libraries
from letgo.errors import InputError
from letgo.models.loading import base_of_adapter, load_model, load_tokenizer
from letgo.run.folder import MODEL, require


def merge(folder: Path, target: Path, dtype: str) -> None:
    """Write a whole model to `target`: weights in `dtype`, tokenizer and model card.

    Raises:
        InputError: the run has no model or one that is whole already, or `target` exists.
    """
    silence_libraries()
    adapter = require(folder, MODEL)
    if base_of_adapter(str(adapter)) is None:
        raise InputError(f"{adapter} is a whole model already; nothing is to be merged")
    if target.exists():
        raise InputError(f"--to: {target} exists; name a new folder")
    model = load_model(str(adapter))
    tokenizer = load_tokenizer(str(adapter))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written beside it and renamed, so that an interrupted merge leaves no half of a model.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.part-") as part:
        whole = Path(part) / "model"
        model.to(getattr(torch, dtype)).save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        card = adapter / "README.md"
        if card.exists():
            (whole / "README.md").write_text(card.read_text(encoding="utf-8"), encoding="utf-8")
        whole.rename(target)
    print(f"merged: {target}")
