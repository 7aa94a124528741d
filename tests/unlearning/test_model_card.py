"""The model card's section on what was unlearned."""

from helpers.training import FORGET, config, train

from letgo import LWFTrainer


def test_the_model_card_says_what_was_forgotten(tmp_path):
    rows = [{**row, "confidence": float(i)} for i, row in enumerate(FORGET)]
    trainer = train(LWFTrainer, config(tmp_path, unlearning_ceiling=6.3), rows)
    trainer.tracker.guard_counts["paused"] = 2
    trainer.create_model_card(model_name="m")
    acted = trainer.tracker.guard_counts
    assert acted["skipped"] > 0 < acted["clipped"]
    card = (tmp_path / "README.md").read_text()
    for said in (
        "9 self-generated texts, 4 of them unlearned",
        "quartiles): 5, 5.75, 6.5, 7.25, 8",
        "N_u = 3",
        "unlearned: 0.5",
        "seeds: training 5",
        "jiang2025graceful",
        "strength 0.1 of a learning update",
        f"skipped {acted['skipped']}, clipped {acted['clipped']}, paused 2",
    ):
        assert said in card, said
