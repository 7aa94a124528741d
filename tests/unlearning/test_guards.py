"""Guards, and the state in checkpoints."""

import json

import pytest
from helpers.training import FORGET, Moves, config, same, train, weights
from transformers import TrainerCallback

from letgo import LWFTrainer
from letgo.unlearning.guards import loss_has_risen, watch_learning
from letgo.unlearning.tracker import Tracker


def test_a_risen_learning_loss_pauses_unlearning(tmp_path, caplog):
    """Paused steps do not change the weights, are counted, and are warned about once."""
    moves = Moves()
    arguments = config(
        tmp_path,
        unlearning_interval=1,
        unlearning_strength=5.0,
        unlearning_max_rise=0.2,
        num_train_epochs=4,
        unlearning_ceiling=1e9,
    )
    with caplog.at_level("WARNING", logger="letgo"):
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    paused = [bool(e["unlearn/paused"]) for e in trainer.state.log_history if "unlearn/paused" in e]
    assert any(paused)
    assert not all(paused)
    unlearning = [d for d, kind in zip(moves.distances, trainer.plan.steps, strict=True) if kind]
    assert [distance == 0 for distance in unlearning] == paused
    assert trainer.tracker.guard_counts["paused"] == sum(paused)
    assert sum("unlearning pauses" in record.message for record in caplog.records) == 1


def test_the_learning_loss_is_smoothed():
    tracker = Tracker()
    for loss in [2.0, 1.5, 1.2, 1.0]:
        watch_learning(tracker, loss)
    assert not loss_has_risen(tracker, 0.1)  # too few losses
    for loss in [1.0] * 20:
        watch_learning(tracker, loss)
    watch_learning(tracker, 3.0)  # one bad batch
    assert not loss_has_risen(tracker, 0.5)
    for _ in range(3):
        watch_learning(tracker, 3.0)
    assert loss_has_risen(tracker, 0.5)


def test_the_tracker_is_restored_from_json():
    tracker = Tracker()
    for value in (0.1, 1 / 3, 0.7):
        tracker.update.add(value, 0.9)
        watch_learning(tracker, value)
    tracker.guard_counts["skipped"] = 4

    class State:
        stateful_callbacks = {"Tracker": json.loads(json.dumps(tracker.state()))}

    again = Tracker()
    again.on_train_begin(None, State, None)
    assert again.state() == tracker.state()
    assert again.update.value == tracker.update.value


@pytest.mark.parametrize(
    "changes",
    [
        {"unlearning_schedule": "adaptive"},
        {"unlearning_state": "shared"},
        {"unlearning_schedule": "random", "unlearning_loss": "npo"},
        {"unlearning_rate": 1e-3},
        {"unlearning_loss": "graddiff", "unlearning_schedule": "decay"},
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, changes):
    whole = train(LWFTrainer, config(tmp_path / "whole", **changes), FORGET)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 6

    train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, callbacks=[Stop()])
    checkpoint = str(tmp_path / "cut" / "checkpoint-6")
    resumed = train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, resume=checkpoint)
    assert same(weights(resumed), weights(whole))
    assert resumed.tracker.state() == whole.tracker.state()
