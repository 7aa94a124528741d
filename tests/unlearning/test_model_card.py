"""The model card's section on what was unlearned."""

from helpers.training import FORGET, config, train

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
