"""Greedy answers depend on weights, prompt and stop tokens, and on nothing else."""

import pytest
import torch
from helpers.models import language_model, make_model
from torch import nn

from letgo.models.inference import round_weights

PROMPTS = [[2, 70, 80, 3], [2, 90, 3], list(range(4, 20))]
CONFIGURED = {
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 30,
    "min_length": 60,
    "suppress_tokens": list(range(4, 200)),
    "begin_suppress_tokens": list(range(4, 200)),
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 0,
    "bad_words_ids": [[i] for i in range(4, 200)],
    "sequence_bias": [[[9], 50.0]],
    "do_sample": True,
    "temperature": 9.0,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "exponential_decay_length_penalty": (1, 9.0),
    "num_beams": 3,
    "num_return_sequences": 2,
    "max_length": 5,
    "max_time": 0.0,
    "stop_strings": ["a", "e", " ", "1"],
    "prompt_lookup_num_tokens": 2,
    "use_cache": False,
    "cache_implementation": "static",
    "return_dict_in_generate": True,
    "guidance_scale": 3.0,
    "renormalize_logits": True,
    "watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.1},
}


@pytest.fixture(scope="module")
def lm():
    return language_model(make_model())


@pytest.fixture(scope="module")
def plain(lm):
    return lm.generate(PROMPTS, 12)


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_folders_generation_settings_change_no_answer(lm, plain, name):
    configured = lm.model.generation_config
    before = getattr(configured, name)
    try:
        setattr(configured, name, CONFIGURED[name])
        assert lm.generate(PROMPTS, 12) == plain
        assert lm.model.generation_config is configured
        assert getattr(configured, name) == CONFIGURED[name]
    finally:
        setattr(configured, name, before)


def test_a_folders_stop_tokens_end_an_answer(lm, plain):
    configured, stop = lm.model.generation_config, plain[0][3]
    configured.eos_token_id = [0, stop]
    try:
        assert lm.generate(PROMPTS, 12)[0] == plain[0][: plain[0].index(stop) + 1]
    finally:
        configured.eos_token_id = 0


def test_a_long_prompt_cuts_its_own_answer_only(lm):
    room = {124: 4, 126: 2, 127: 1, 128: 0, 140: 0}
    long = [[5 + n % 90 for n in range(length)] for length in room]
    together = lm.generate([*PROMPTS, *long], 12)
    assert together[:3] == lm.generate(PROMPTS, 12)
    assert max(map(len, together[:3])) == 12
    for answer, most in zip(together[3:], room.values(), strict=True):
        assert len(answer) == most or answer[-1] in lm.stops
    assert lm.generate(long[-2:], 12) == [[], []]


def test_rounded_weights_change_no_answer_and_no_embedding():
    lm = language_model(make_model(tied=True), bf16=True)
    rows = [{"input_ids": ids, "labels": ids} for ids in PROMPTS]
    before = lm.generate(PROMPTS, 12), lm.losses(rows)
    round_weights(layer for layer in lm.model.modules() if isinstance(layer, nn.Linear))
    assert lm.model.lm_head.weight.dtype == torch.bfloat16
    assert lm.model.get_input_embeddings().weight.dtype == torch.float32
    assert (lm.generate(PROMPTS, 12), lm.losses(rows)) == before
