import pytest
import torch

from letgo.run import config as cfg
from letgo.run.base import load_base, load_to_ask

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12]]


def settings(tiny, **values):
    return cfg.parse("elicit", [], {"model": str(tiny), "use_cpu": True, **values})


def test_answers_are_computed_in_bfloat16_where_the_run_is(tiny):
    lm = load_to_ask(settings(tiny, bf16=True))
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}
    assert not lm.bf16  # nothing is left for autocast to do
    # Positions would be wrong in bfloat16, which has whole numbers to 256 only.
    assert {b.dtype for n, b in lm.model.named_buffers() if "inv_freq" in n} == {torch.float32}
    assert all(lm.generate(PROMPTS, 4))
    rows = [{"input_ids": ids, "labels": ids} for ids in PROMPTS]
    exact = load_base(settings(tiny, bf16=False)).losses(rows)
    assert lm.losses(rows) == pytest.approx(exact, rel=0.02)


def test_a_run_without_bfloat16_answers_in_float32(tiny):
    lm = load_to_ask(settings(tiny, bf16=False))
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}


def test_a_chosen_dtype_stays(tiny):
    lm = load_to_ask(settings(tiny, bf16=True, dtype="float16"))
    assert lm.model.dtype == torch.float16
