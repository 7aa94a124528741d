"""Curves of a training log."""

from letgo.report.curves import read_curves


def test_steps_are_learning_steps():
    log = [
        {"step": 1, "loss": 2.0},
        {
            "step": 2,
            "unlearn/nll": 1.0,
            "unlearn/steps": 1,
            "unlearn/skipped": 3,
            "unlearn/paused": 2,
        },
        {"step": 3, "loss": None},
        {"step": 4, "loss": 1.0},
        {"step": 5, "unlearn/nll": 0.0, "unlearn/steps": 2},
        {"train_loss": 1.5},
    ]
    training = read_curves(log)
    assert training.learning == ([1, 3], [2.0, 1.0])
    assert training.unlearning == ([1], [1.0])
    assert training.unlearning_steps == 2
    assert training.guards == {
        "skipped": ([1], [3]),
        "clipped": ([], []),
        "paused": ([1], [2]),
        "idle": ([3], [1]),
    }


def test_the_validation_loss_is_over_learning_steps_too():
    log = [
        {"step": 0, "eval_loss": 3.0},
        {"step": 1, "loss": 2.0},
        {"step": 3, "eval_loss": 1.5, "unlearn/steps": 1, "keep/steps": 1},
        {"step": 4, "loss": 1.0},
        {"step": 6, "eval_loss": 1.75, "unlearn/steps": 2, "keep/steps": 1},
        {"step": 6, "train_runtime": 3.0},
    ]
    assert read_curves(log).validation == ([0, 1, 3], [3.0, 1.5, 1.75])
    assert read_curves(log[1:2]).validation == ([], [])


def test_keep_steps_are_no_learning_steps():
    log = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "keep/loss": 0.5, "unlearn/steps": 0, "keep/steps": 1},
        {"step": 3, "loss": 1.0},
        {"step": 5, "loss": 0.5, "unlearn/nll": 1.0, "unlearn/steps": 1, "keep/steps": 1},
    ]
    training = read_curves(log)
    assert training.learning == ([1, 2, 3], [2.0, 1.0, 0.5])
    assert training.unlearning == ([3], [1.0])
