"""LWFTrainer against TRL's SFTTrainer and against a step-by-step loop."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, same, train, watched, weights
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import SFTTrainer

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.models.inference import example_losses, pad_rows
from letgo.unlearning.guards import Diverged
from letgo.unlearning.schedule import Plan
from letgo.unlearning.stream import MixedBatches


@pytest.mark.parametrize(
    ("changes", "peft"),
    [
        ({}, None),
        ({"gradient_accumulation_steps": 3}, None),
        ({"gradient_checkpointing": True}, None),
        ({"packing": True, "max_length": 32}, None),
        ({}, LoraConfig(r=2, target_modules=["q_proj", "up_proj"])),
    ],
)
@pytest.mark.parametrize("forget", [None, FORGET])
def test_off_means_off(tmp_path, changes, peft, forget):
    """Without a forget set or with interval 0: TRL's losses, norms and weights, bit for bit."""
    interval = 0 if forget else 3
    arguments = config(tmp_path, unlearning_interval=interval, **changes)
    ours = train(LWFTrainer, arguments, forget, peft=copy.deepcopy(peft))
    theirs = train(SFTTrainer, config(tmp_path, **changes), peft=copy.deepcopy(peft))
    assert same(weights(ours), weights(theirs))
    values = [
        [
            [e[name] for name in ("loss", "grad_norm", "learning_rate")]
            for e in t.state.log_history[:-1]
        ]
        for t in (ours, theirs)
    ]
    assert len(values[0]) == ours.state.global_step
    assert values[0] == values[1]
    assert ours.state.log_history[-1]["train_loss"] == theirs.state.log_history[-1]["train_loss"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_follow_the_schedule(tmp_path, accumulation):
    """Learning steps have the batches, order and learning rates of plain fine-tuning."""
    changes = {"gradient_accumulation_steps": accumulation}
    trainer, watch = watched(LWFTrainer, config(tmp_path, **changes), FORGET)
    _, plain = watched(SFTTrainer, config(tmp_path, **changes))
    is_unlearning = trainer.plan.steps
    assert trainer.state.global_step == len(is_unlearning)
    assert [i for i, kind in enumerate(is_unlearning) if kind] == list(
        range(3, len(is_unlearning), 4)
    )
    forget = {tuple(row["input_ids"]) for row in FORGET}
    nothing = [[trainer.processing_class.pad_token_id]]

    def texts(step):
        return [
            tuple(i for i in row if i != 1) for micro in step if micro != nothing for row in micro
        ]

    for step, kind in zip(watch.steps, is_unlearning, strict=True):
        assert all((text in forget) is bool(kind) for text in texts(step))
    learned = [step for step, kind in zip(watch.steps, is_unlearning, strict=True) if not kind]
    assert [texts(step) for step in learned] == [texts(step) for step in plain.steps]
    rates = [rate for rate, kind in zip(watch.rates, is_unlearning, strict=True) if not kind]
    assert rates == pytest.approx(plain.rates)


def test_the_unlearning_gradient_is_minus_the_learning_gradient(tmp_path):
    """On the same batch, times unlearning_rate / learning_rate."""
    gradients = []
    for unlearning in (False, True):
        trainer = LWFTrainer(
            model=make_model(),
            args=config(tmp_path, unlearning_rate=2e-3),
            train_dataset=Dataset.from_list(LEARN),
            forget_dataset=Dataset.from_list(FORGET),
            processing_class=make_tokenizer(),
        )
        trainer.get_train_dataloader()
        trainer.plan = Plan([unlearning])
        trainer.model.train()
        batch = MixedBatches(None, trainer.data_collator)(
            [{**r, "reference": 0} for r in FORGET[:4]]
        )
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(20))
        loss.backward()
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters()})
    for name, learning in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], -0.2 * learning)


def test_a_run_equals_a_plain_loop_of_descent_and_ascent(tmp_path):
    """With SGD: theta -= lr g on learning batches, theta += unlearning_rate g on forget batches."""
    arguments = config(
        tmp_path,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        unlearning_max_grad_norm=1e9,
        unlearning_rate=3e-3,
    )
    trainer, watch = watched(LWFTrainer, arguments, FORGET)
    model = make_model()
    rows = {tuple(row["input_ids"]): row for row in LEARN + FORGET}
    for step, unlearning in zip(watch.steps, trainer.plan.steps, strict=True):
        texts = [rows[tuple(i for i in row if i != 1)] for micro in step for row in micro]
        batch = pad_rows(texts, 1)
        counts = (batch.labels != -100).sum(1)
        loss = (example_losses(model, batch) * counts).sum() / counts.sum()  # mean over tokens
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += (3e-3 if unlearning else -1e-2) * parameter.grad
    for (name, ours), theirs in zip(
        trainer.model.named_parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("at", "accumulation"), [(2, 1), (4, 1), (7, 1), (4, 3), (5, 3)])
def test_resumed_equals_uninterrupted(tmp_path, at, accumulation):
    """Interrupted between learning steps, around an unlearning step, and in the second epoch."""
    changes = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 4 if accumulation == 1 else 2,
    }
    whole = train(LWFTrainer, config(tmp_path / "whole", **changes), FORGET)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == at

    train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, callbacks=[Stop()])
    checkpoint = str(tmp_path / "cut" / f"checkpoint-{at}")
    resumed = train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, resume=checkpoint)
    assert same(weights(resumed), weights(whole))
    assert [entry.get("loss") for entry in resumed.state.log_history[:-1]] == [
        entry.get("loss") for entry in whole.state.log_history[:-1]
    ]


def test_learning_and_unlearning_have_separate_metrics(tmp_path):
    trainer = train(LWFTrainer, config(tmp_path), FORGET)
    entries = trainer.state.log_history[:-1]
    for entry, unlearning in zip(entries, trainer.plan.steps, strict=True):
        assert ("loss" in entry) is not bool(unlearning)
        assert ("unlearn/loss" in entry) is bool(unlearning)
        if unlearning:
            assert entry["unlearn/loss"] < 0 < entry["unlearn/nll"]
            assert entry["unlearn/grad_norm"] > 0
            assert entry["unlearn/skipped"] == 0
    assert entries[-1]["epoch"] == 2.0
    coarse = train(LWFTrainer, config(tmp_path, logging_steps=4), FORGET).state.log_history[0]
    assert coarse["loss"] == pytest.approx(
        sum(entry["loss"] for entry in entries[:4] if "loss" in entry) / 3, rel=1e-5
    )


def test_the_logged_metrics_do_not_depend_on_the_accumulation(tmp_path):
    values = []
    for batch, accumulation in ((4, 1), (2, 2)):
        arguments = config(
            tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
        )
        history = train(LWFTrainer, arguments, FORGET).state.log_history
        steps = [entry for entry in history if "unlearn/loss" in entry]
        values.append([[e["unlearn/loss"], e["unlearn/grad_norm"]] for e in steps])
    assert torch.tensor(values[0]).isfinite().all()
    torch.testing.assert_close(*map(torch.tensor, values), rtol=1e-3, atol=1e-5)


def test_forgotten_examples_contribute_nothing(tmp_path):
    """With a ceiling below every loss there is no gradient, and all texts count as skipped."""
    trainer = train(LWFTrainer, config(tmp_path, unlearning_ceiling=1e-6), FORGET)
    steps = [entry for entry in trainer.state.log_history if "unlearn/skipped" in entry]
    assert steps
    assert all(entry["unlearn/skipped"] == 4 for entry in steps)
    assert all(entry["unlearn/grad_norm"] == 0 for entry in steps)


def test_the_clip_norm_bounds_an_unlearning_step(tmp_path):
    """A step of SGD cannot move the weights further than unlearning_rate times the clip norm."""
    moved = []

    class Move(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            self.before = [p.detach().clone() for p in model.parameters()]

        def on_step_end(self, args, state, control, model=None, **kwargs):
            difference = [p - b for p, b in zip(model.parameters(), self.before, strict=True)]
            moved.append(torch.stack([d.norm() for d in difference]).norm().item())

    arguments = config(
        tmp_path,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        unlearning_rate=5e-2,
        unlearning_max_grad_norm=0.01,
    )
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[Move()])
    for distance, unlearning in zip(moved, trainer.plan.steps, strict=True):
        assert (distance <= 5e-2 * 0.01 * 1.001) is bool(unlearning)


def test_non_finite_losses_stop_with_a_named_cause(tmp_path):
    model = make_model(tied=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[310] = float("nan")  # a token of the forget texts only
    poisoned = [{**row, "input_ids": [310, *row["input_ids"][1:]]} for row in FORGET]
    with pytest.raises(Diverged, match=r"loss of the forget batch is nan at .* step 4.*--unlearn"):
        train(LWFTrainer, config(tmp_path), poisoned, model=model)
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"learning loss is nan at .* step 1.*--learning_rate"):
        train(LWFTrainer, config(tmp_path), FORGET, model=model)


@pytest.mark.parametrize("poisoned", ["loss", "gradient norm"])
@pytest.mark.parametrize("step", [3, 4])
def test_non_finite_numbers_reach_no_checkpoint(tmp_path, step, poisoned):
    """In a learning and an unlearning step; a gradient can be NaN although the loss is finite."""
    model, passes = make_model(tied=False), []

    def poison(tensor):
        passes.append(1)
        return tensor * float("nan") if len(passes) == step else tensor

    if poisoned == "loss":
        model.model.norm.register_forward_hook(lambda module, inputs, output: poison(output))
    else:
        model.model.norm.weight.register_hook(poison)
    causes = {
        ("loss", 3): "learning loss",
        ("gradient norm", 3): "gradient norm of learning",
        ("loss", 4): "loss of the forget batch",
        ("gradient norm", 4): "gradient norm of the forget batch",
    }
    cause = causes[poisoned, step]
    with pytest.raises(Diverged, match=rf"{cause} is nan at optimizer step {step}; .*; lower --"):
        train(
            LWFTrainer, config(tmp_path, save_strategy="steps", save_steps=1), FORGET, model=model
        )
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == [
        f"checkpoint-{i}" for i in range(1, step)
    ]
    saved = load_file(tmp_path / f"checkpoint-{step - 1}" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_ceiling_bounds_a_recipe_that_would_ruin_the_model(tmp_path):
    """Ascent at the learning rate after every learning step, for 10 epochs (open-unlearning).

    The ceiling limits the NLL of the texts; without it the NLL keeps rising.
    """
    nll = {}
    for ceiling in (6.5, 1e9):
        arguments = config(
            tmp_path,
            unlearning_interval=1,
            unlearning_rate=1e-2,
            num_train_epochs=10,
            unlearning_ceiling=ceiling,
            unlearning_max_grad_norm=1e9,
            max_grad_norm=0.0,
        )
        history = train(LWFTrainer, arguments, FORGET).state.log_history
        nll[ceiling] = [entry["unlearn/nll"] for entry in history if "unlearn/nll" in entry][-1]
    assert nll[1e9] > 2 * nll[6.5]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unlearning_interval", -1),
        ("forget_fraction", 0.0),
        ("forget_fraction", 1.5),
        ("unlearning_rate", -1.0),
        ("unlearning_ceiling", 0.0),
    ],
)
def test_settings_outside_their_range(tmp_path, name, value):
    with pytest.raises(InputError, match=f"--{name} must be"):
        config(tmp_path, **{name: value})


def test_the_model_card_names_method_and_paper(tmp_path):
    trainer = train(LWFTrainer, config(tmp_path), FORGET)
    trainer.create_model_card(model_name="m")
    card = (tmp_path / "README.md").read_text()
    assert "LWF" in card
    assert "2505.19715" in card
    json.dumps(trainer.state.log_history)
