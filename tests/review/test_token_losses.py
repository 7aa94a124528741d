"""The model behind "colour tokens"."""

import json

import pytest
import yaml
from helpers.review_runs import write_texts

from letgo.review import view
from letgo.review.session import Review

NAMES = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}


@pytest.mark.parametrize(
    "settings",
    [
        {"trust_remote_code": True},
        {"model_init_kwargs": {"trust_remote_code": True}},
        {"trust_remote_code": "yes", "push_to_hub": True},
        {},
    ],
)
def test_a_foreign_run_executes_no_code_in_the_review(tmp_path, settings):
    model, mark = tmp_path / "model", tmp_path / "it-ran"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (model / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": NAMES}))
    (model / "tokenizer_config.json").write_text(json.dumps({"auto_map": NAMES}))
    out = tmp_path / "run"
    out.mkdir()
    content = {"model": str(model), "forget_fraction": 0.5, "seed": 0, **settings}
    (out / "config.yaml").write_text(yaml.safe_dump({**content, "provenance": {}}))
    review = Review(write_texts(out, 9))
    shown = view.text(review, review.ids[0], coloured=True)
    assert "not coloured: " in shown
    assert 'class="token"' not in shown
    assert not mark.exists()
    if settings:
        assert "letgo review runs no such code" in shown


def test_a_model_that_is_gone_leaves_the_text_uncoloured(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    content = {"model": str(tmp_path / "gone"), "seed": 0, "provenance": {}}
    (out / "config.yaml").write_text(yaml.safe_dump(content))
    review = Review(write_texts(out, 9))
    assert "not coloured: " in view.text(review, review.ids[0], coloured=True)
