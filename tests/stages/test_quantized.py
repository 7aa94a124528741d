"""4-bit and 8-bit base models (bitsandbytes): scores against the model in full, and a QLoRA run."""

import pytest
import torch
from datasets import Dataset
from helpers.models import make_tokenizer
from helpers.training import FORGET, LEARN, config
from peft import LoraConfig
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from letgo import LWFTrainer
from letgo.models.inference import pad_rows
from letgo.scoring.measure import along, gradient_products, plain_norms
from letgo.scoring.weights import scored_weights

pytest.importorskip("bitsandbytes")
KINDS = {
    "4-bit": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "8-bit": BitsAndBytesConfig(load_in_8bit=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with rows long enough for blocks of 64 weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quantized")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            initializer_range=0.1,
            eos_token_id=0,
            pad_token_id=1,
            bos_token_id=None,
        )
    ).save_pretrained(folder)
    return folder


def load(folder, kind):
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=KINDS[kind], dtype=torch.float32, device_map="cpu"
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_products_are_about_those_of_the_model_in_full(folder, rows, kind):
    full = load(folder, kind).dequantize()  # its weights as they are when multiplied
    torch.manual_seed(1)
    delta = {name: torch.randn(shape) for name, shape in scored_weights(full).shapes.items()}
    wanted = {"inner": along(delta), "norm": plain_norms}
    found = []
    for model in (full, load(folder, kind)):
        weights = scored_weights(model)
        assert weights.shapes.keys() == delta.keys()
        found.append(gradient_products(model, weights, pad_rows(rows, 1), wanted))
    for key in wanted:
        assert spearmanr(found[0][key], found[1][key]).statistic > 0.9
        tolerance = 1e-3 if kind == "4-bit" else 0.1  # 8-bit layers round their inputs too
        torch.testing.assert_close(found[0][key], found[1][key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", list(KINDS))
def test_qlora(folder, tmp_path, kind):
    trainer = LWFTrainer(
        model=load(folder, kind),
        args=config(tmp_path),
        train_dataset=Dataset.from_list(LEARN),
        forget_dataset=Dataset.from_list(FORGET),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "unlearn/loss" in entry]
    assert steps
    assert all(entry["unlearn/strength"] > 0 for entry in steps)
