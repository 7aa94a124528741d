"""Loading and fingerprinting models and tokenizers; the device they run on."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

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


def base_of_adapter(source: str) -> str | None:
    """The name of the model that an adapter folder, as `--use_peft` saves it, belongs to.

    Returns:
        None if `source` is no such folder.

    Raises:
        InputError: the folder's adapter_config.json cannot be used.
    """
    if Path(source, "config.json").exists() or not Path(source, "adapter_config.json").exists():
        return None
    with loading(source):
        return str(PeftConfig.from_pretrained(source).base_model_name_or_path)


def load_config(name: str, **kwargs: Any) -> PreTrainedConfig:
    """The architecture of a model, or of the model that an adapter belongs to.

    Raises:
        InputError: there is no such model.
    """
    source = resolve(name)
    if base := base_of_adapter(source):
        return load_config(base, **kwargs)
    with loading(name):
        return AutoConfig.from_pretrained(source, **kwargs)


def fingerprint(name: str, trust_remote_code: bool = False) -> str:
    """A digest that changes when the model does; an adapter's covers its base model.

    For a local folder it covers the name, size, first and last megabyte of each file but hidden
    ones and documents (`.md`); for a hub id it is the commit that the config was loaded from.

    Raises:
        InputError: there is no such model.
    """
    source = resolve(name)
    config = load_config(name, trust_remote_code=trust_remote_code)
    if not Path(source).is_dir():
        return f"{source}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    if base := base_of_adapter(source):
        digest.update(fingerprint(base, trust_remote_code).encode())
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
    """The tokenizer of a model, which pads with a token that the model has an embedding for.

    Padding is masked, so any such token will do. Of several chat templates it has the default one.

    Raises:
        InputError: there is no such model, or it has no tokenizer or no token to pad with.
    """
    source = resolve(name)
    base = base_of_adapter(source)
    if base and not Path(source, "tokenizer_config.json").exists():
        return load_tokenizer(base, **kwargs)
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    if isinstance(tokenizer.chat_template, dict) and "default" in tokenizer.chat_template:
        tokenizer.chat_template = tokenizer.chat_template["default"]
    size = embeddings(load_config(name, **kwargs))
    for kind in ("pad", "eos", "unk", "bos"):
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is not None and token_id < size:
            tokenizer.pad_token = getattr(tokenizer, f"{kind}_token")
            return tokenizer
    raise InputError(
        f"--model: the tokenizer of {name} has no padding or end-of-text token among the {size} "
        f"tokens that the model has embeddings for; use the model's own tokenizer"
    )


def embeddings(config: PreTrainedConfig) -> int:
    """How many tokens a model has embeddings for; a large number if its configuration is silent."""
    return getattr(config.get_text_config(), "vocab_size", None) or 1 << 31


def stop_ids(name: str, tokenizer: Any, **kwargs: Any) -> set[int]:
    """The token ids that end an answer of a model that is not loaded (`LanguageModel.stops`)."""
    source = resolve(name)
    if base := base_of_adapter(source):
        return stop_ids(base, tokenizer, **kwargs)
    try:
        configured = GenerationConfig.from_pretrained(source, **kwargs).eos_token_id
    except OSError:  # most models have no such file; transformers then takes the model's token
        configured = getattr(load_config(name, **kwargs).get_text_config(), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model, in float32 by default, on the accelerator if there is one.

    Args:
        name: hub id, folder written by `save_pretrained`, folder of an adapter, which is merged
            into its base model, or "smollm2-135m".
        kwargs: for `from_pretrained`; a quantized model stays on the device that it loads to.

    Raises:
        InputError: there is no such model, or an adapter would be merged into a quantized one.
    """
    kwargs.setdefault("dtype", torch.float32)
    source = resolve(name)
    if base := base_of_adapter(source):
        return _merged(source, load_model(base, **kwargs))
    with loading(name):
        model = AutoModelForCausalLM.from_pretrained(source, **kwargs)
    return model.to(device()) if "quantization_config" not in kwargs else model


def _merged(folder: str, base: PreTrainedModel) -> PreTrainedModel:
    if getattr(base, "is_quantized", False):
        raise InputError(
            f"--model: {folder} is an adapter, and merging it would round the quantized base "
            f"model; load the base without quantization"
        )
    with loading(folder):
        model = PeftModel.from_pretrained(base, folder).merge_and_unload()
    # The base model's name no longer names these weights; another adapter is saved with this one.
    model.name_or_path = model.config._name_or_path = folder
    return model


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
