"""The numbers behind the figures."""

import json

import pytest

from letgo.report.figure_data import rank_correlation
from letgo.scoring.explain import layer_shares


def test_layers_come_in_their_order():
    names = [f"model.layers.{i}.mlp.up_proj" for i in (10, 9, 0)]  # as a backward pass meets them
    shares = layer_shares({b"shares": json.dumps(dict.fromkeys(names, 2.0)).encode()})
    assert list(shares["block"]) == ["block 0", "block 9", "block 10"]
    assert shares["matrix"] == pytest.approx({"mlp.up_proj": 1.0})
    assert layer_shares(None) == layer_shares({}) == {}


def test_rank_correlation():
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3], [1, 4, 9]) == pytest.approx(1)
