"""The length of unlearning updates against measured lengths and gradients."""

import math

import pytest
import torch
from helpers.training import FORGET, LEARN, Grads, Moves, config, same, train, weights

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.unlearning.schedule import Plan
from letgo.unlearning.tracker import RunningMean, Tracker


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("schedule", ["periodic", "warmup", "decay"])
def test_strength_is_a_fraction_of_recent_learning_updates(tmp_path, optim, schedule):
    moves = Moves()
    arguments = config(tmp_path, unlearning_strength=0.3, unlearning_schedule=schedule, optim=optim)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    recent, count = RunningMean(), 0
    factors = [Plan([True] * 4, schedule).strength(k) for k in range(4)]
    for distance, unlearning in zip(moves.distances, trainer.plan.steps, strict=True):
        if unlearning:
            expected = 0.3 * factors[count] * recent.value
            assert distance == pytest.approx(expected, rel=1e-3)
            count += 1
        else:
            recent.add(distance, 0.9)
    logged = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/strength" in e]
    assert logged == pytest.approx([0.3 * factor for factor in factors], rel=1e-4)


def test_only_shared_state_changes_the_moments(tmp_path):
    for state, untouched in (("separate", True), ("shared", False)):
        moves = Moves()
        arguments = config(tmp_path, unlearning_state=state, unlearning_strength=0.5)
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
        for step, unlearning in enumerate(trainer.plan.steps):
            if unlearning:
                pairs = zip(moves.moments[step - 1], moves.moments[step], strict=True)
                assert all(torch.equal(a, b) for a, b in pairs) is untouched


def test_shared_strength_is_a_fraction_of_recent_learning_gradients(tmp_path):
    """The gradient that entered the moments: exp_avg changes by (1 - beta1) (g - exp_avg)."""
    moves = Moves()
    arguments = config(tmp_path, unlearning_state="shared", unlearning_strength=0.5)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    before, after = moves.moments[2], moves.moments[3]
    gradient = [(a - 0.9 * b) / 0.1 for a, b in zip(after, before, strict=True)]
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradient))
    assert norm == pytest.approx(0.5, rel=1e-3)  # learning gradients are clipped to 1
    assert trainer.state.log_history[3]["unlearn/strength"] == pytest.approx(0.5)


def test_unlearning_before_the_first_learning_step(tmp_path):
    """`early`: the length is that of AdamW's update for pure noise, 0.23 lr sqrt(weights)."""
    moves = Moves()
    arguments = config(
        tmp_path, unlearning_schedule="early", unlearning_strength=1.0, warmup_steps=4
    )
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    count = sum(p.numel() for p in trainer.model.parameters())
    expected = 1e-2 * math.sqrt(count * 0.1 / 1.9)
    assert moves.distances[0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(
        InputError, match="--unlearning_schedule: before the first learning step of SGD"
    ):
        train(LWFTrainer, config(tmp_path, unlearning_schedule="early", optim="sgd"), FORGET)


@pytest.mark.parametrize(
    "changes",
    [
        {"unlearning_state": "shared"},
        {"unlearning_rate": 1e-2},
        {"unlearning_rate": 1e-2, "unlearning_state": "separate"},
    ],
)
def test_before_the_first_learning_step_the_peak_learning_rate_is_used(tmp_path, changes):
    """`early` with a warmup: the same updates as with a constant learning rate."""
    moved = []
    for schedule in ({"warmup_steps": 3}, {"lr_scheduler_type": "constant"}):
        moves = Moves()
        arguments = config(tmp_path, unlearning_schedule="early", **schedule, **changes)
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
        moved.append(
            [d for d, kind in zip(moves.distances, trainer.plan.steps, strict=True) if kind]
        )
        strengths = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
        assert all(strength > 0 for strength in strengths)
        if "warmup_steps" in schedule:  # the first learning rate of a warmup is 0
            assert moves.distances[4] == 0 < moves.distances[5]
    assert moved[0] == moved[1]
    assert all(distance > 0 for distance in moved[0])


def test_a_rate_after_a_learning_update_of_length_0(tmp_path):
    """After the first step of a warmup, the rate still determines the length of the update."""
    moves = Moves()
    arguments = config(
        tmp_path,
        unlearning_state="separate",
        unlearning_rate=1e-3,
        warmup_steps=3,
        unlearning_interval=1,
    )
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    assert moves.distances[0] == 0
    assert moves.distances[1] == pytest.approx(1e-3 / 3, rel=1e-3)  # a third of the way up, clipped
    strengths = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
    assert strengths[0] == 0 < strengths[1]


def test_adaptive_follows_the_agreement_of_the_gradients(tmp_path):
    """The learning examples as texts: replaying them agrees with learning, unlearning does not."""
    strengths = {}
    for name, loss in (("own", "bounded_ga"), ("replayed", "replay")):
        arguments = config(
            tmp_path,
            unlearning_schedule="adaptive",
            unlearning_loss=loss,
            forget_max_overlap=1.0,
            per_device_train_batch_size=11,
            num_train_epochs=6,
        )
        history = train(LWFTrainer, arguments, LEARN).state.log_history
        strengths[name] = [e["unlearn/strength"] for e in history if "unlearn/strength" in e]
    assert max(strengths["own"]) < 0.05  # unlearning the learning task does not agree with learning
    assert sum(strengths["replayed"]) > 10 * sum(strengths["own"])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_adaptive_is_the_cosine_with_the_gradient_of_the_step_before(tmp_path, optimizer):
    grads = Grads()
    arguments = config(tmp_path, unlearning_schedule="adaptive", optim=optimizer)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[grads])
    for step, unlearning in enumerate(trainer.plan.steps):
        if unlearning:
            cosine = torch.cosine_similarity(grads.seen[step], grads.seen[step - 1], dim=0)
            logged = trainer.state.log_history[step]["unlearn/strength"]
            assert logged == pytest.approx(max(0.0, float(cosine)), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("at", [2, 3])
def test_a_checkpoint_before_an_adaptive_step_is_written_after_it(tmp_path, at):
    """No checkpoint contains the gradient that the step needs, so a run must not resume there."""
    steps = [False, False, False, True]
    adaptive = {"unlearning_schedule": "adaptive", "save_strategy": "steps", "save_steps": at}
    whole = train(LWFTrainer, config(tmp_path, **adaptive), FORGET)
    assert whole.plan.steps[:4] == steps
    saved = 4 if steps[at] else at
    checkpoint = tmp_path / f"checkpoint-{saved}"
    assert checkpoint.exists()
    assert (tmp_path / f"checkpoint-{at}").exists() == (saved == at)
    arguments = config(tmp_path / "resumed", **adaptive)
    resumed = train(LWFTrainer, arguments, FORGET, resume=str(checkpoint))
    assert same(weights(resumed), weights(whole))


def test_the_length_of_an_update_is_measured_on_a_sample_of_weights(tmp_path, monkeypatch):
    from letgo.unlearning import step_size as module

    monkeypatch.setattr(module, "_MEASURED", 1 << 10)
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((90, 301), (300, 200), (7,))]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    step_size = module.StepSize(config(tmp_path), lambda tensor: tensor)
    step_size.attach(optimizer)
    step_size.prepare(tracker := Tracker(), Plan([False]), 0, 0.0)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    length = sum(float((w.grad**2).sum()) for w in weights) ** 0.5
    optimizer.step()
    assert tracker.update.value == pytest.approx(length, rel=0.1)
