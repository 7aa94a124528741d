"""Penalties on learning steps against their formulas."""

import pytest
import torch
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, train, weights
from oracles import gradients as oracle
from peft import LoraConfig

from letgo import LWFTrainer
from letgo.errors import InputError

ADAPTED = ["q_proj", "up_proj"]


def test_micro_batches_without_examples_do_not_dilute_a_penalty(tmp_path):
    """At the end of an epoch, 2 of the 4 micro-batches of a step are empty."""
    losses = []
    for interval in (0, 3):
        arguments = config(
            tmp_path,
            regularizer="bss",
            regularizer_weight=1.0,
            unlearning_interval=interval,
            unlearning_strength=0.0,
            gradient_accumulation_steps=4,
        )
        history = train(LWFTrainer, arguments, FORGET).state.log_history
        losses.append([e["loss"] for e in history if "loss" in e])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_bss_rejects_packed_data(tmp_path):
    for changes in (
        {"packing": True, "max_length": 24},
        {"padding_free": True, "max_length": None},
    ):
        with pytest.raises(InputError, match="--regularizer bss needs a feature of every example"):
            train(LWFTrainer, config(tmp_path, regularizer="bss", **changes))


@pytest.mark.parametrize("name", ["bss", "l2_sp", "ewc"])
@pytest.mark.parametrize("interval", [0, 3])
def test_regularizers_keep_the_model_near_its_start(tmp_path, name, interval):
    """With and without unlearning: a large weight makes the penalized quantity smaller."""
    moved = {}
    for weight in (0.0, 1e4):
        arguments = config(
            tmp_path,
            regularizer=name,
            regularizer_weight=weight,
            learning_rate=1e-3,
            unlearning_interval=interval or 99,
        )
        trainer = train(LWFTrainer, arguments, FORGET)
        if name == "bss":
            batch = trainer.data_collator([dict(row) for row in LEARN[:4]])
            with torch.no_grad():
                trainer.model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"])
            moved[weight] = float(trainer._penalty(batch["labels"])) / (weight or 1.0)
            if not weight:
                moved[weight] = torch.inf
        else:
            start = dict(make_model().named_parameters())
            moved[weight] = sum(
                float(((p - start[n]) ** 2).sum().detach())
                for n, p in weights(trainer).items()
                if "proj" in n
            )
    assert moved[1e4] < moved[0.0]


def test_the_penalties_agree_with_their_formulas(tmp_path):
    from letgo.scoring.weights import scored_weights
    from letgo.unlearning.regularizers import penalty

    def settings(name, weight):
        return config(tmp_path, regularizer=name, regularizer_weight=weight)

    model, labels = make_model(), torch.tensor([[-100, 5, 6], [-100, -100, 7]])
    squared = penalty(settings("l2_sp", 0.1), model, [], make_tokenizer(), False, False)
    weighted = penalty(settings("ewc", None), model, FORGET, make_tokenizer(), False, False)
    fisher = oracle.diagonal_fisher(model, scored_weights(model).layers, FORGET)
    assert squared(labels).item() == weighted(labels).item() == 0
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    moved = {name: (p - start[name]).detach() ** 2 for name, p in model.named_parameters()}
    assert squared(labels).item() == pytest.approx(
        0.05 * sum(float(m.sum()) for m in moved.values())
    )
    expected = 200 * sum(float((moved[f"{n}.weight"] * f).sum()) for n, f in fisher.items())
    assert weighted(labels).item() == pytest.approx(expected, rel=1e-3)
    shrink = penalty(settings("bss", None), model, [], make_tokenizer(), False, False)
    ids = torch.tensor([[4, 5, 6], [8, 9, 7]])
    hidden = model.base_model(ids).last_hidden_state
    features = torch.stack([hidden[0, :2].mean(0), hidden[1, 1]])
    expected = 1e-3 * torch.linalg.matrix_norm(features, -2) ** 2  # the smallest singular value
    assert shrink(labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_regularizers_reject_models_they_do_not_work_with(tmp_path):
    adapter = LoraConfig(r=2, target_modules=ADAPTED)
    with pytest.raises(InputError, match=r"--regularizer l2_sp .* adapter"):
        train(LWFTrainer, config(tmp_path, regularizer="l2_sp"), FORGET, peft=adapter)
    with pytest.raises(InputError, match=r"--regularizer ewc .* set forget_dataset"):
        train(LWFTrainer, config(tmp_path, regularizer="ewc"))
