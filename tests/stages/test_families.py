"""Tiny random models of many architectures: products against autograd, and all stages."""

import pytest
import torch
from helpers.commands import flags, letgo
from helpers.models import language_model, make_tokenizer
from oracles import gradients as oracle
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from letgo.models.inference import pad_rows
from letgo.scoring.fisher import FISHER_KINDS, estimate
from letgo.scoring.measure import along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.weights import scored_weights

SMALL = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 1,
    "eos_token_id": 0,
    "bos_token_id": None,
}
FAMILIES = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "mistral": {},
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": {},
    "phi": {"num_key_value_heads": 2},
    "olmo2": {"num_key_value_heads": 2},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    "mamba": {"state_size": 4, "intermediate_size": 32},
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
}


def make(family):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**SMALL, **FAMILIES[family]})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_products_equal_autograd(rows, family):
    model = make(family)
    weights = scored_weights(model)
    torch.manual_seed(1)
    delta = {name: torch.randn(shape) for name, shape in weights.shapes.items()}
    batches = weights.batches([len(row["input_ids"]) for row in rows], 40)
    slow = [oracle.gradients_by_matrix(model, row) for row in rows]
    for kind in FISHER_KINDS:
        fisher, _ = estimate(kind, language_model(model), weights, rows, batches)
        if kind == "diagonal":
            for name in weights.shapes:
                mean = sum(g[name] ** 2 for _, g in slow) / len(rows)
                torch.testing.assert_close(
                    fisher[name].tensors["diagonal"], mean, rtol=1e-3, atol=1e-7
                )
        wanted = {"inner": along(delta), "norm": plain_norms, "quadratic": fisher_norms(fisher)}
        for batch in batches:
            padded = pad_rows([rows[i] for i in batch], 1)
            found = gradient_products(model, weights, padded, wanted)
            for place, i in enumerate(batch):
                loss, gradients = slow[i]
                assert set(gradients) == set(weights.shapes)
                close = {"rel": 1e-3, "abs": 1e-4}
                assert found["loss"][place].item() == pytest.approx(loss, rel=1e-4)
                inner = sum((delta[n] * g).sum().item() for n, g in gradients.items())
                assert found["inner"][place].item() == pytest.approx(inner, **close)
                norm = sum((g * g).sum().item() for g in gradients.values())
                assert found["norm"][place].item() == pytest.approx(norm, **close)
                quadratic = sum((fisher[n].times(g) * g).sum().item() for n, g in gradients.items())
                assert found["quadratic"][place].item() == pytest.approx(quadratic, **close)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_from_elicit_to_train(family, data, tmp_path):
    model, tokenizer = make(family), make_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    words = flags(
        tmp_path / "model", data, out, max_test=2, forget=data / "letters" / "train.jsonl"
    )
    status, _, error = letgo("run", *words)
    assert status == 0, error
    assert (out / "model" / "model.safetensors").exists()
    assert (out / "scores.parquet").exists()
