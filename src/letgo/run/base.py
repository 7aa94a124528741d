"""The base model of a run, its tokenizer, and models that its stages have saved."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from letgo.errors import InputError
from letgo.models.loading import load_model, load_tokenizer


def base_options(config: Any) -> dict[str, Any]:
    """What TRL's model flags say about loading the base model."""
    from trl import get_quantization_config

    model = config.adapter
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
    return load_model(config.settings.model, **base_options(config)).eval()


def load_base_tokenizer(config: Any) -> Any:
    """The base model's tokenizer, the same in every stage, with TRL's settings applied.

    Raises:
        InputError: no tokenizer, or a chat template or end-of-text token that cannot be used.
    """
    training = config.training
    tokenizer = load_tokenizer(
        config.settings.model,
        revision=config.adapter.model_revision,
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
