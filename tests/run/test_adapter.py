"""An adapter that letgo wrote is a model to start from (F18)."""

import shutil

import pytest
import torch
from helpers.commands import flags, letgo
from peft import PeftModel
from transformers import AutoModelForCausalLM

from letgo.errors import InputError
from letgo.models.loading import fingerprint, load_model, load_tokenizer

LORA = {"use_peft": "true", "lora_target_modules": "all-linear", "lora_r": 4}


@pytest.fixture(scope="module")
def adapter(tiny, data, tmp_path_factory):
    """The folder of an adapter, which `letgo probe --use_peft` has trained."""
    out = tmp_path_factory.mktemp("adapter") / "out"
    words = flags(tiny, data, out, **LORA, learning_rate=1e-2)
    status, _, error = letgo("probe", *words)
    assert status == 0, error
    assert (out / "probe" / "adapter_config.json").exists()
    return out / "probe"


def test_an_adapter_is_merged_into_its_base(tiny, adapter):
    ids = torch.tensor([[5, 6, 7]])
    base = AutoModelForCausalLM.from_pretrained(tiny)
    plain = base(ids).logits
    wanted = PeftModel.from_pretrained(base, str(adapter))(ids).logits
    model = load_model(str(adapter))
    torch.testing.assert_close(model(ids).logits.cpu(), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted, plain)
    assert model.config._name_or_path == str(adapter)
    assert load_tokenizer(str(adapter)).chat_template


def test_the_fingerprint_covers_adapter_and_base(tiny, adapter, tmp_path):
    base, own = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny, base)
    shutil.copytree(adapter, own)
    text = (own / "adapter_config.json").read_text()
    (own / "adapter_config.json").write_text(text.replace(str(tiny), str(base)))
    first = fingerprint(str(own))
    assert first == fingerprint(str(own)) != fingerprint(str(base))
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4] + b"abcd")
    changed = fingerprint(str(own))
    assert changed != first
    weights = (own / "adapter_model.safetensors").read_bytes()
    (own / "adapter_model.safetensors").write_bytes(weights[:-4] + b"abcd")
    assert fingerprint(str(own)) != changed
    shutil.rmtree(base)
    with pytest.raises(InputError, match="--model: cannot load"):
        fingerprint(str(own))


def test_an_adapter_upon_an_adapter_keeps_both(adapter, data, tmp_path):
    words = flags(adapter, data, tmp_path / "out", **LORA)
    status, _, error = letgo("probe", *words)
    assert status == 0, error
    second = tmp_path / "out" / "probe"
    assert str(adapter) in (second / "adapter_config.json").read_text()
    ids = torch.tensor([[5, 6, 7]])
    wanted = PeftModel.from_pretrained(load_model(str(adapter)), str(second))(ids).logits
    torch.testing.assert_close(load_model(str(second))(ids).logits, wanted, rtol=1e-4, atol=1e-5)
