"""Loading and fingerprinting models and tokenizers; the device they run on."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from letgo.errors import InputError, first_line
from letgo.models.bundled import EMBEDDED, resolve


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn any error of loading a model, as a broken file can raise, into an `InputError`."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(
            f"--model: cannot load {name!r}; give a hub id, a folder written by save_pretrained, "
            f"or {EMBEDDED} ({first_line(error)})"
        ) from error


def fingerprint(name: str, trust_remote_code: bool = False) -> str:
    """A digest that changes when the model does.

    For a local folder it covers the name, size, first and last megabyte of each file but hidden
    ones and documents (`.md`); for a hub id it is the commit that the config was loaded from.

    Raises:
        InputError: there is no such model.
    """
    source = resolve(name)
    with loading(name):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    if not Path(source).is_dir():
        return f"{source}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(Path(source).rglob("[!.]*")):
        name = file.relative_to(source).as_posix()
        if file.is_file() and file.suffix != ".md" and "/." not in f"/{name}":
            size = file.stat().st_size
            digest.update(f"{name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
                stream.seek(max(0, size - (1 << 20)))
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()[:16]


def load_tokenizer(name: str, **kwargs: Any) -> Any:
    """The tokenizer of a model; without a padding token it pads with the end-of-text token.

    Raises:
        InputError: there is no such model, or it has no tokenizer or no token to pad with.
    """
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), **kwargs)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(f"--model: the tokenizer of {name} has no padding or end-of-text token")
    return tokenizer


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model, in float32 by default, on the accelerator if there is one.

    Args:
        name: hub id, folder written by `save_pretrained`, or "smollm2-135m".
        kwargs: for `from_pretrained`; a quantized model stays on the device that it loads to.

    Raises:
        InputError: there is no such model.
    """
    kwargs.setdefault("dtype", torch.float32)
    with loading(name):
        model = AutoModelForCausalLM.from_pretrained(resolve(name), **kwargs)
    return model.to(device()) if "quantization_config" not in kwargs else model


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def device_name() -> str:
    """The name of the GPU, or else the type of the device ("cpu")."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else device().type


def bf16_is_fast() -> bool:
    """Whether the hardware supports bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False
