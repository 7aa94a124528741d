"""The model card's sections on what was unlearned and what was kept."""

import pytest
from helpers.training import FORGET, KEEP, config, train

from letgo import LWFTrainer


def test_the_model_card_describes_the_unlearning(tmp_path):
    rows = [{**row, "confidence": float(i)} for i, row in enumerate(FORGET)]
    trainer = train(LWFTrainer, config(tmp_path, unlearning_ceiling=6.3), rows)
    trainer.tracker.guard_counts["paused"] = 2
    trainer.create_model_card(model_name="m")
    counts = trainer.tracker.guard_counts
    assert counts["skipped"] > 0 < counts["clipped"]
    card = (tmp_path / "README.md").read_text()
    for text in (
        "9 self-generated texts, 4 of them unlearned",
        "quartiles): 5, 5.75, 6.5, 7.25, 8",
        "N_u = 3",
        "unlearned: 0.5",
        "seeds: training 5",
        "jiang2025graceful",
        "strength 0.1 of a learning update",
        f"skipped {counts['skipped']}, clipped {counts['clipped']}, paused 2",
    ):
        assert text in card, text
    assert "What was kept" not in card
    assert "None" not in card


@pytest.mark.parametrize("forget", [FORGET, None])
def test_the_model_card_describes_what_was_kept(tmp_path, forget):
    """Also in a run that unlearns nothing."""
    trainer = train(LWFTrainer, config(tmp_path, keep_share=0.5), forget, keep=KEEP)
    trainer.create_model_card(model_name="m")
    card = (tmp_path / "README.md").read_text()
    assert ("## What was forgotten" in card) is (forget is not None)
    _, _, kept = card.partition("## What was kept")
    assert trainer.plan.kept(len(trainer.plan)) == 6
    for text in (
        "7 texts to keep",
        "6 keep steps, 0.5 for each learning step",
        "loss kl, the divergence from the base model at each token of a text (its 32 likeliest",
    ):
        assert text in kept, text


def test_the_model_card_names_the_nll_of_kept_texts(tmp_path):
    trainer = train(LWFTrainer, config(tmp_path, keep_loss="nll", keep_share=0), keep=KEEP)
    trainer.create_model_card(model_name="m")
    assert "What was kept" not in (tmp_path / "README.md").read_text()
    trainer = train(LWFTrainer, config(tmp_path, keep_loss="nll"), keep=KEEP)
    trainer.create_model_card(model_name="m")
    assert "- loss nll, the negative log-likelihood of the" in (tmp_path / "README.md").read_text()
