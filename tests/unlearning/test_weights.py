"""The column `weight` of learning data scales losses; below 0 an example is unlearned."""

import math

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, Watch, config, same, weights

from letgo import LWFTrainer
from letgo.errors import InputError

WEIGHTS = [1.0, 0.25, 0.5, -0.5, 0.0, 1.0, -1.0, 0.75] + [1.0] * 14


def trainer_of(folder, values=None, learn=LEARN, forget=None, **changes):
    rows = [dict(row) for row in learn]
    for row, value in zip(rows, values or [], strict=False):
        row["weight"] = value
    return LWFTrainer(
        model=make_model(),
        args=config(folder, **changes),
        train_dataset=Dataset.from_list(rows),
        forget_dataset=Dataset.from_list(forget) if forget else None,
        processing_class=make_tokenizer(),
    )


def loss(model, row):
    """The NLL of an example's labels, their sum."""
    with torch.no_grad():
        log_probs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    return -sum(
        float(log_probs[i - 1, label])
        for i, label in enumerate(row["labels"])
        if label != -100 and i
    )


def batch_of(trainer, rows):
    return trainer.data_collator([{k: row[k] for k in row} for row in rows])


def test_a_loss_is_the_weighted_sum_over_all_labels(tmp_path):
    """Against a loop over the examples; the divisor counts every label."""
    trainer = trainer_of(tmp_path, WEIGHTS, unlearning_interval=0)
    rows = [{**row, "weight": w} for row, w in zip(LEARN, WEIGHTS, strict=True) if w > 0][:6]
    tokens = sum(label != -100 for row in rows for label in row["labels"])
    expected = sum(row["weight"] * loss(make_model(), row) for row in rows) / tokens
    trainer.model.train()
    batch = batch_of(trainer, rows)
    assert batch["weight"].tolist() == [row["weight"] for row in rows]
    found = trainer.compute_loss(
        trainer.model, dict(batch), num_items_in_batch=torch.tensor(tokens)
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_weights_of_1_change_nothing(tmp_path):
    """Bit for bit."""
    runs = [trainer_of(tmp_path / str(v), v, FORGET, LEARN) for v in (None, [1.0] * len(FORGET))]
    for trainer in runs:
        trainer.train()
    assert same(*map(weights, runs))


def test_an_example_of_weight_0_is_left_out_and_one_below_0_unlearned(tmp_path):
    """Only in unlearning steps, all of which take the two, with their loss scaled."""
    trainer, watch = trainer_of(tmp_path, WEIGHTS, unlearning_strength=0.5), Watch()
    watch.attach(trainer)
    trainer.train()
    positive = {tuple(r["input_ids"]) for r, w in zip(LEARN, WEIGHTS, strict=True) if w > 0}
    negative = {tuple(r["input_ids"]) for r, w in zip(LEARN, WEIGHTS, strict=True) if w < 0}
    assert trainer.plan.unlearned(len(trainer.plan)) > 1
    for step, batches in enumerate(watch.steps):
        seen = {tuple(i for i in row if i != 1) for batch in batches for row in batch} - {()}
        expected = negative if trainer.plan.is_unlearning(step) else positive
        assert seen <= expected
        assert seen == negative or not trainer.plan.is_unlearning(step)
    assert trainer.forget_dataset["weight"] == [0.5, 1.0]


def test_the_loss_of_unlearning_is_scaled(tmp_path):
    """At the base model, by the logged loss of the first unlearning step."""
    trainer = trainer_of(
        tmp_path,
        WEIGHTS,
        unlearning_loss="ga",
        unlearning_strength=0.0,
        learning_rate=1e-12,
        logging_steps=1,
    )
    trainer.train()
    rows = [{**r, "w": w} for r, w in zip(LEARN, WEIGHTS, strict=True) if w < 0]
    tokens = sum(label != -100 for row in rows for label in row["labels"])
    expected = sum(row["w"] * loss(make_model(), row) for row in rows) / tokens
    (first, *_) = [e["unlearn/loss"] for e in trainer.state.log_history if "unlearn/loss" in e]
    assert first == pytest.approx(expected, rel=1e-4)


def test_they_stand_beside_texts_to_unlearn(tmp_path):
    marked = [{**row, "selected": i < 3} for i, row in enumerate(FORGET)]
    trainer = trainer_of(tmp_path, WEIGHTS, forget=marked)
    assert len(trainer.forget_dataset) == 3 + 2
    assert trainer.forget_dataset["weight"] == [1.0] * 3 + [0.5, 1.0]


@pytest.mark.parametrize("bad", [1.5, -1.01, math.nan, "many", True])
def test_other_values_are_refused(tmp_path, bad):
    rows = [{**row, "weight": bad} for row in LEARN]
    with pytest.raises(InputError, match="row 0: 'weight' must be a number from -1 to 1"):
        trainer_of(tmp_path, learn=rows)


def test_settings_without_a_loss_for_each_example_are_refused(tmp_path):
    for changes, name in (({"packing": True}, "--packing"), ({"loss_type": "dft"}, "--loss_type")):
        with pytest.raises(InputError, match=name):
            trainer_of(tmp_path, WEIGHTS, **changes)
    with pytest.raises(InputError, match="no example has a 'weight' above 0"):
        trainer_of(tmp_path, [-1.0] * len(LEARN))
