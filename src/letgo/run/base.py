"""The base model of a run, and the models that its stages have saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import get_quantization_config

from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.models.loading import load_model, load_tokenizer, loading
from letgo.run.config import Config
from letgo.run.folder import damaged


def load_base(config: Config) -> LanguageModel:
    """The model before any fine-tuning, in evaluation mode."""
    return _language_model(config, _base_weights(config))


def load_trained(config: Config, folder: Path) -> LanguageModel:
    """A model that a stage has saved, in evaluation mode, with the base model's tokenizer.

    An adapter is merged into its base, unless that is quantized: merging would round it.

    Raises:
        InputError: its files are damaged.
    """
    if (folder / "adapter_config.json").exists():
        base = _base_weights(config)
        with _readable(folder):
            adapted = PeftModel.from_pretrained(base, str(folder))
        if getattr(adapted.get_base_model(), "is_quantized", False):
            return _language_model(config, adapted.get_base_model())
        return _language_model(config, adapted.merge_and_unload())
    options = _loading_options(config)
    options.pop("revision", None)  # names a version of the base model
    with _readable(folder):
        model = load_model(str(folder), **options)
    return _language_model(config, model)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Name a model of a run that cannot be loaded, and the command that makes it again."""
    try:
        with loading(str(folder)):
            yield
    except InputError as error:
        raise damaged(folder, error.__cause__ or error) from error


def load_any(config: Config, folder: Path | None) -> LanguageModel:
    """The model that a stage has saved in `folder`, or without one the base model."""
    return load_trained(config, folder) if folder else load_base(config)


def load_to_ask(config: Config, folder: Path | None = None) -> LanguageModel:
    """The base model, or one that a stage has saved in `folder`, for answers and losses alone.

    Where the run computes in bfloat16 its weights and activations are in it too, as they are when
    a model is used: it answers faster than under autocast, which keeps them in float32.
    """
    if config.training.bf16 and config.adapter.dtype == "float32":
        config = config._replace(adapter=replace(config.adapter, dtype="bfloat16"))
    lm = load_any(config, folder)
    return replace(lm, bf16=lm.bf16 and lm.model.dtype != torch.bfloat16)


def load_base_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, the same in every stage, with TRL's settings applied.

    Raises:
        InputError: no tokenizer, or a chat template or a token that cannot be used.
    """
    training, revision = config.training, config.adapter.model_revision
    tokenizer = load_tokenizer(
        config.settings.model, revision=revision, trust_remote_code=training.trust_remote_code
    )
    if training.chat_template_path:
        try:
            tokenizer.chat_template = Path(training.chat_template_path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"--chat_template_path must be a Jinja file: {error}") from error
    if isinstance(tokenizer.chat_template, dict):
        raise InputError(
            f"--model: it has several chat templates ({', '.join(tokenizer.chat_template)}) and "
            f"none is the default; give one as a file by --chat_template_path"
        )
    if not (tokenizer.chat_template or "").strip():
        tokenizer.chat_template = None  # an empty one would render nothing
    for flag in ("eos_token", "pad_token"):
        if token := getattr(training, flag):
            if token not in tokenizer.get_vocab():
                raise InputError(f"--{flag}: {token!r} is not in the vocabulary")
            setattr(tokenizer, flag, token)
    return tokenizer


def _language_model(config: Config, model: PreTrainedModel) -> LanguageModel:
    training = config.training
    tokenizer = load_base_tokenizer(config)
    return LanguageModel(model.eval(), tokenizer, bool(training.bf16), training.max_length)


def _base_weights(config: Config) -> PreTrainedModel:
    return load_model(config.settings.model, **_loading_options(config))


def _loading_options(config: Config) -> dict[str, Any]:
    """Arguments of `from_pretrained`, by TRL's model flags."""
    flags = config.adapter
    options = {
        "revision": flags.model_revision,
        "attn_implementation": flags.attn_implementation,
        "dtype": flags.dtype if flags.dtype == "auto" else getattr(torch, flags.dtype),
        "trust_remote_code": config.training.trust_remote_code,
        "quantization_config": get_quantization_config(flags),
        **(config.training.model_init_kwargs or {}),
    }
    return {key: value for key, value in options.items() if value is not None}
