"""The log of a run with unlearning: losses, epochs and counts are those of the learning steps."""

import pytest
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, train
from transformers import TrainerCallback
from trl import SFTTrainer

from letgo import LWFTrainer


class Stop(TrainerCallback):
    """Stops after a step, with a checkpoint."""

    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.at


class Events(TrainerCallback):
    """The steps of evaluations and checkpoints, and the names of logged metrics."""

    def __init__(self):
        self.evaluated, self.saved, self.names = [], [], set()

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated.append(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self.saved.append(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.names |= set(logs)


def result(cls, arguments, forget=None, callbacks=(), resume=None):
    """The trainer and what `train` returns."""
    kwargs = {"forget_dataset": Dataset.from_list(forget)} if forget else {}
    trainer = cls(
        model=make_model(),
        args=arguments,
        train_dataset=Dataset.from_list(LEARN),
        eval_dataset=Dataset.from_list(LEARN[:4]),
        processing_class=make_tokenizer(),
        callbacks=list(callbacks),
        **kwargs,
    )
    return trainer, trainer.train(resume_from_checkpoint=resume)


def logged(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_training_loss_is_the_mean_over_learning_steps(tmp_path):
    """Also in a run that is resumed from a checkpoint."""
    early = {"unlearning_interval": 1, "unlearning_schedule": "early", "unlearning_strength": 0.0}
    trainer, output = result(LWFTrainer, config(tmp_path, **early), FORGET)
    losses = logged(trainer)
    mean = pytest.approx(sum(losses) / len(losses))
    assert len(losses) == 12
    assert output.training_loss == output.metrics["train_loss"] == mean
    assert trainer.state.log_history[-1]["train_loss"] == mean
    train(LWFTrainer, config(tmp_path, **early), FORGET, callbacks=[Stop(12)])
    checkpoint = str(tmp_path / "checkpoint-12")
    _, resumed = result(LWFTrainer, config(tmp_path, **early), FORGET, resume=checkpoint)
    assert resumed.training_loss == mean


def test_epochs_and_samples_are_those_of_the_learning_data(tmp_path):
    values = []
    for cls, forget in ((SFTTrainer, None), (LWFTrainer, FORGET)):
        trainer, output = result(cls, config(tmp_path), forget)
        metrics = output.metrics
        samples = metrics["train_samples_per_second"] * metrics["train_runtime"]
        values.append((trainer.state.num_train_epochs, round(samples), output.metrics["epoch"]))
    assert values == [(2, 44, 2.0)] * 2


@pytest.mark.parametrize(
    ("interval", "schedule", "at"),
    [(5, "periodic", [7, 14]), (3, "periodic", [8, 16]), (3, "early", [10, 16])],
)
def test_an_epoch_ends_once(tmp_path, interval, schedule, at):
    """It is evaluated and saved after the unlearning steps that follow its last learning step."""
    events = Events()
    arguments = config(
        tmp_path,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        unlearning_interval=interval,
        unlearning_schedule=schedule,
    )
    trainer, _ = result(LWFTrainer, arguments, FORGET, [events])
    assert events.evaluated == events.saved == at
    assert len(logged(trainer)) == 2


def test_a_part_of_an_epoch_is_evaluated_at_its_end_as_by_trl(tmp_path):
    for cls, forget, at in ((SFTTrainer, None, [6, 9]), (LWFTrainer, FORGET, [8, 12])):
        events = Events()
        arguments = config(tmp_path, eval_strategy="epoch", num_train_epochs=1.4)
        result(cls, arguments, forget, [events])
        assert events.evaluated == at


def test_the_names_of_the_metrics(tmp_path):
    """These are what every `report_to` gets."""
    events = Events()
    arguments = config(tmp_path, rescore_interval=2)
    train(LWFTrainer, arguments, FORGET, callbacks=[events])
    assert {name for name in events.names if name.startswith("unlearn")} == {
        f"unlearn/{name}"
        for name in (
            "loss",
            "nll",
            "grad_norm",
            "strength",
            "skipped",
            "clipped",
            "paused",
            "steps",
            "confidence",
            "helpful",
            "update",
            "learning_norm",
        )
    }


@pytest.mark.parametrize("forget", [None, FORGET])
@pytest.mark.parametrize("logging_steps", [1, 5])
def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path, forget, logging_steps):
    """Every number but times; the checkpoint is between two log lines."""

    def lines(trainer):
        times = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
        return [
            {name: value for name, value in line.items() if name not in times}
            for line in trainer.state.log_history
        ]

    settings = {"logging_steps": logging_steps, "rescore_interval": 2}
    whole, output = result(LWFTrainer, config(tmp_path / "whole", **settings), forget)
    train(LWFTrainer, config(tmp_path / "cut", **settings), forget, callbacks=[Stop(7)])
    checkpoint = str(tmp_path / "cut" / "checkpoint-7")
    resumed, again = result(
        LWFTrainer, config(tmp_path / "cut", **settings), forget, resume=checkpoint
    )
    assert lines(resumed)[-1]["train_loss"] == pytest.approx(again.training_loss)
    assert again.training_loss == pytest.approx(output.training_loss)
    assert len(lines(resumed)) == len(lines(whole))
    for ours, theirs in zip(lines(resumed), lines(whole), strict=True):
        assert ours == pytest.approx(theirs)
