"""Texts chosen anew while the model learns."""

import math

import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from oracles.gradients import gradient_of_one
from peft import LoraConfig
from test_trainer import FORGET, LEARN, Watch, config, same, train, weights
from transformers import TrainerCallback

from letgo import LWFTrainer
from letgo.confidence.gradients import trained_weights
from letgo.errors import InputError
from letgo.unlearning.texts import reference_log_probs

EVERY = {"rescore_interval": 2, "rescore_texts": 8, "per_device_train_batch_size": 2}


def prepared(folder, **changes):
    """A trainer that is watched, before it trains."""
    watch = Watch()
    trainer = LWFTrainer(
        model=make_model(), args=config(folder, **{**EVERY, **changes}),
        train_dataset=Dataset.from_list(LEARN), forget_dataset=Dataset.from_list(FORGET),
        processing_class=make_tokenizer(), callbacks=[watch],
    )  # fmt: skip
    watch.attach(trainer)
    return trainer, watch


def test_the_scores_are_cosines_with_the_first_moment(tmp_path):
    """Against one backward pass per text and AdamW's own state."""
    trainer, _ = prepared(tmp_path)
    trainer.train()
    model = trainer.model.eval()
    layers = trained_weights(model).layers
    moments = [trainer.optimizer.optimizer.state[layer.weight]["exp_avg"].double()
               for layer in layers.values()]  # fmt: skip
    moment = torch.cat([m.flatten() for m in moments])
    expected = []
    for row in FORGET:
        _, gradients = gradient_of_one(model, layers, row)
        gradient = torch.cat([g.flatten() for g in gradients.values()]).double()
        expected.append(-float(torch.cosine_similarity(moment, gradient, dim=0)))
    assert trainer.rescore._scores(list(range(9))) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(p.requires_grad for p in model.parameters())


def test_later_steps_take_what_was_chosen_last(tmp_path):
    """Before the first re-scoring the planned texts; after it only texts of the pool."""
    trainer, watch = prepared(tmp_path, forget_fraction=0.5)
    pools, train_step = [], trainer.rescore.batches

    def batches(count):
        pools.append((trainer.state.global_step, list(trainer.memory.pool)))
        return train_step(count)

    trainer.rescore.batches = batches
    trainer.train()
    unlearned = [step for step, kind in enumerate(trainer.kinds) if kind]
    assert [step for step, _ in pools] == unlearned  # from the first: it comes after 3 steps
    assert len({tuple(pool) for _, pool in pools}) > 1
    for step, pool in pools:
        assert len(pool) == 4  # half of 8
        chosen = {tuple(FORGET[place]["input_ids"]) for place in pool}
        seen = {tuple(i for i in row if i != 1) for row in watch.steps[step][0]}
        assert len(seen) == 2
        assert seen <= chosen
    logged = [e for e in trainer.state.log_history if "unlearn/helpful" in e]
    assert logged
    assert all(0 <= e["unlearn/helpful"] <= 1 for e in logged)
    assert all(-1 < e["unlearn/confidence"] < 1 for e in logged)


@pytest.mark.parametrize(
    ("at", "changes"),
    [(2, {}), (3, {}), (6, {}), (6, {"gradient_accumulation_steps": 3}),
     (6, {"unlearning_schedule": "adaptive"})],
)  # fmt: skip
def test_resumed_equals_uninterrupted(tmp_path, at, changes):
    """Cut where the texts are scored, before they are unlearned, and in the next cycle."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == at

    changes = {**EVERY, **changes}
    whole = train(LWFTrainer, config(tmp_path / "whole", **changes), FORGET)
    train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, callbacks=[Stop()])
    checkpoint = str(tmp_path / "cut" / f"checkpoint-{at}")
    resumed = train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, resume=checkpoint)
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}])
def test_adapters_are_scored_in_their_own_weights(tmp_path, changes):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    trainer = train(LWFTrainer, config(tmp_path, **EVERY, **changes), FORGET, peft=adapter)
    assert {name.split(".")[-2] for name in trainer.rescore.weights.layers} == {"lora_A", "lora_B"}
    assert len(set(trainer.rescore._scores(list(range(9))))) == 9


def test_other_texts_are_chosen_but_learning_batches_stay(tmp_path):
    """Learning steps see the same batches with and without re-scoring."""
    seen = []
    for interval in (0, 2):
        trainer, watch = prepared(tmp_path, rescore_interval=interval)
        trainer.train()
        kinds = trainer.kinds
        seen.append([s for s, kind in zip(watch.steps, kinds, strict=True) if not kind])
    assert seen[0] == seen[1]


def test_adaptive_steps_are_as_long_as_the_chosen_texts_agree(tmp_path):
    """Chosen anew, they still are measured by the cosine of their own gradient."""
    grads, moments = [], []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            grads.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
            means = [optimizer.state[p].get("exp_avg", p * 0) for p in parameters]
            moments.append(torch.cat([m.detach().flatten().clone() for m in means]))

    arguments = config(tmp_path, **EVERY, unlearning_schedule="adaptive", forget_fraction=0.2)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[Look()])
    assert trainer.memory.pool is not None
    expected = [
        max(0.0, float(torch.cosine_similarity(g, m, dim=0)))
        for g, m, kind in zip(grads, moments, trainer.kinds, strict=True) if kind
    ]  # fmt: skip
    logged = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
    assert logged == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert max(logged) > 0


@pytest.mark.parametrize("name", ["npo", "simnpo"])
def test_the_mean_is_over_the_texts_that_a_step_has(tmp_path, name):
    """Fewer may be chosen than a step would take: at the base model `npo` is 2/beta log 2."""
    trainer = train(LWFTrainer, config(
        tmp_path, **{**EVERY, "per_device_train_batch_size": 8}, unlearning_loss=name,
        unlearning_strength=0.0, learning_rate=1e-12, num_train_epochs=3,
    ), FORGET)  # fmt: skip
    assert len(trainer.memory.pool) == 4 < trainer.forgotten_per_step
    losses = [e["unlearn/loss"] for e in trainer.state.log_history if "unlearn/loss" in e]
    if name == "npo":
        assert losses == pytest.approx([20 * math.log(2)] * len(losses), rel=1e-3)
    else:
        texts = [trainer.rescore.rows[place] for place in trainer.memory.pool]
        found = reference_log_probs(trainer.model, texts, 1, False)
        means = [
            v / sum(i != -100 for i in row["labels"]) for v, row in zip(found, texts, strict=True)
        ]
        expected = sum(2 / 2.5 * math.log1p(math.exp(2.5 * mean)) for mean in means) / 4
        assert losses[-1] == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_scored_is_refused(tmp_path):
    with pytest.raises(InputError, match="graddiff"):
        config(tmp_path, **EVERY, unlearning_loss="graddiff")
    with pytest.raises(InputError, match="--optim adamw_torch"):
        train(LWFTrainer, config(tmp_path, **EVERY, optim="sgd"), FORGET)
