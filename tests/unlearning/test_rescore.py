"""Re-scoring: the texts are chosen again during training."""

import math

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import (
    FORGET,
    LEARN,
    Grads,
    Watch,
    config,
    same,
    text_log_probs,
    train,
    weights,
)
from oracles.gradients import gradient_of_one
from peft import LoraConfig
from transformers import TrainerCallback

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.scoring.scores import DEFAULT_SCORE, SCORES, Score
from letgo.scoring.weights import trained_weights
from letgo.unlearning.checks import examples
from letgo.unlearning.rescore import Rescore, rescoring

EVERY = {"rescore_interval": 2, "rescore_texts": 8, "per_device_train_batch_size": 2}


def prepared(folder, forget=FORGET, **changes):
    """A trainer before training, and a record of its steps."""
    watch = Watch()
    trainer = LWFTrainer(
        model=make_model(),
        args=config(folder, **{**EVERY, **changes}),
        train_dataset=Dataset.from_list(LEARN),
        forget_dataset=Dataset.from_list(forget),
        processing_class=make_tokenizer(),
        callbacks=[watch],
    )
    watch.attach(trainer)
    return trainer, watch


def gradient(model, layers, row):
    """One text's gradient, all layers in one vector."""
    _, gradients = gradient_of_one(model, layers, row)
    return torch.cat([g.flatten() for g in gradients.values()]).double()


def test_the_scores_are_cosines_with_the_learning_gradient(tmp_path):
    """Against one backward pass per text and per learning example."""
    trainer, _ = prepared(tmp_path)
    trainer.train()
    model = trainer.model.eval()
    layers = trained_weights(model).layers
    learning = sum(gradient(model, layers, row) for row in LEARN[:7])
    expected = [
        -float(torch.cosine_similarity(learning, gradient(model, layers, row), dim=0))
        for row in FORGET
    ]
    scores = trainer.rescore.scores(list(range(9)), LEARN[:7])
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(p.requires_grad for p in model.parameters())


def test_interference_is_scored_by_the_losses_alone(tmp_path):
    """Against the mean NLL of one text at a time, under the trained and under the base model."""
    texts = [{**row, "score": "interference"} for row in FORGET]
    trainer, _ = prepared(tmp_path, forget=texts)
    trainer.train()

    def nll(model, row):
        ids = torch.tensor([row["input_ids"]])
        logits = model(ids).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        return float(torch.nn.functional.cross_entropy(logits, labels))

    model, base = trainer.model.eval(), make_model().eval()
    with torch.no_grad():
        expected = [nll(model, row) - nll(base, row) for row in FORGET]
    scores = trainer.rescore.scores(list(range(9)), LEARN[:7])
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert len({score > 0 for score in scores}) == 2  # otherwise the test shows little
    assert trainer.rescore.learning_norm is None
    lines = [entry for entry in trainer.state.log_history if "unlearn/helpful" in entry]
    assert lines
    assert all("unlearn/learning_norm" not in line for line in lines)
    assert all(line.get("unlearn/confidence", 1.0) > 0 for line in lines)


@pytest.mark.parametrize("name", ["fisher_distance", "linear", "cosine", "my own"])
def test_scores_that_need_more_than_the_current_model_are_not_rescored(tmp_path, name, caplog):
    """Refused if re-scoring was set, else a warning; the selected texts are unlearned."""
    texts = [{**row, "score": name, "confidence": i} for i, row in enumerate(FORGET)]
    with pytest.raises(InputError, match=f"--rescore_interval: the score {name} .*; set"):
        prepared(tmp_path, forget=texts)
    with caplog.at_level("WARNING", logger="letgo"):
        trainer, _ = prepared(tmp_path, forget=texts, rescore_interval=None)
    assert f"without re-scoring the texts: --rescore_interval: the score {name}" in caplog.text
    assert trainer.rescore is None
    trainer.train()
    assert trainer.chosen.allowed == trainer.chosen.indices == [5, 6, 7, 8]


def test_a_new_score_is_used_for_rescoring(tmp_path, monkeypatch):
    """One entry in `SCORES` is enough; here the texts with the largest gradient."""
    score = Score(
        lambda text, stats: text["norm"] / stats.learning, frozenset({"norm", "learning"}), ""
    )
    monkeypatch.setitem(SCORES, "largest", score)
    trainer, _ = prepared(tmp_path, forget=[{**row, "score": "largest"} for row in FORGET])
    trainer.train()
    model = trainer.model.eval()
    layers = trained_weights(model).layers
    mean = sum(gradient(model, layers, row) for row in LEARN[:7]) / 7
    norms = [float((gradient(model, layers, row) ** 2).sum()) for row in FORGET]
    expected = [norm / float((mean**2).sum()) for norm in norms]
    assert trainer.rescore.scores(list(range(9)), LEARN[:7]) == pytest.approx(expected, rel=1e-3)
    assert len(trainer.tracker.pool) == 4


def test_packed_learning_examples_are_taken_apart():
    packed = {name: LEARN[0][name] + LEARN[1][name] for name in ("input_ids", "labels")}
    packed["seq_lengths"] = [len(row["input_ids"]) for row in LEARN[:2]]
    assert list(examples([packed])) == [
        {name: row[name] for name in ("input_ids", "labels")} for row in LEARN[:2]
    ]


def test_texts_with_a_negative_score_are_not_unlearned(tmp_path):
    """With the learning examples as texts: unlearning them would raise the learning loss."""
    trainer, _ = prepared(tmp_path, forget_max_overlap=1.0, rescore_interval=1, rescore_texts=22)
    whole = LWFTrainer(
        model=make_model(),
        args=trainer.args,
        train_dataset=Dataset.from_list(LEARN),
        forget_dataset=Dataset.from_list(LEARN),
        processing_class=make_tokenizer(),
    )
    scores = []
    inner = whole.rescore.scores

    def watch(indices, learning):
        scores.append(dict(zip(indices, inner(indices, learning), strict=True)))
        return scores[-1].values()

    whole.rescore.scores = lambda *arguments: list(watch(*arguments))
    whole.train()
    assert whole.tracker.pool == sorted(i for i in whole.tracker.pool if scores[-1][i] > 0)
    empty = [e for e in whole.state.log_history if e.get("unlearn/helpful") == 0]
    for entry in empty:
        assert entry["unlearn/strength"] == 0
    assert any(score < 0 for each in scores for score in each.values())


def test_unlearning_steps_use_the_texts_chosen_last(tmp_path):
    """Every unlearning step comes after a re-scoring, and uses only texts of its pool."""
    trainer, watch = prepared(tmp_path, forget_fraction=0.5)
    pools, train_step = [], trainer.rescore.batches

    def batches(count):
        pools.append((trainer.state.global_step, list(trainer.tracker.pool)))
        return train_step(count)

    trainer.rescore.batches = batches
    trainer.train()
    unlearned = [step for step, kind in enumerate(trainer.plan.steps) if kind]
    assert [step for step, _ in pools] == unlearned  # the first re-scoring is earlier
    assert len({tuple(pool) for _, pool in pools}) > 1
    for step, pool in pools:
        assert len(pool) <= 4  # half of 8, those with a negative score left out
        chosen = {tuple(FORGET[index]["input_ids"]) for index in pool}
        seen = {tuple(i for i in row if i != 1) for row in watch.steps[step][0]}
        assert len(seen - {()}) == min(2, len(pool))
        assert seen - {()} <= chosen
    logged = [e for e in trainer.state.log_history if "unlearn/helpful" in e]
    assert logged
    assert all(0 <= e["unlearn/helpful"] <= 1 for e in logged)
    assert all(e["unlearn/learning_norm"] > 0 for e in logged)
    assert all(-1 < e["unlearn/confidence"] < 1 for e in logged)


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (2, {}),
        (3, {}),
        (6, {}),
        (6, {"gradient_accumulation_steps": 3}),
        (6, {"unlearning_schedule": "adaptive"}),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, at, changes):
    """Interrupted at a re-scoring, before an unlearning step, and in the next cycle."""

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
def test_scores_with_an_adapter_are_of_its_weights(tmp_path, changes):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    trainer = train(LWFTrainer, config(tmp_path, **EVERY, **changes), FORGET, peft=adapter)
    assert {name.split(".")[-2] for name in trainer.rescore.weights.layers} == {"lora_A", "lora_B"}
    assert len(set(trainer.rescore.scores(list(range(9)), LEARN[:4]))) == 9


def test_rescoring_does_not_change_the_learning_batches(tmp_path):
    seen = []
    for interval in (0, 2):
        trainer, watch = prepared(tmp_path, rescore_interval=interval)
        trainer.train()
        seen.append([s for i, s in enumerate(watch.steps) if not trainer.plan.is_unlearning(i)])
    assert seen[0] == seen[1]


def test_adaptive_strengths_are_those_of_the_chosen_texts(tmp_path):
    """The strength is the cosine of the chosen texts' gradient with the learning gradient."""
    grads = Grads()
    arguments = config(tmp_path, **EVERY, unlearning_schedule="adaptive", forget_fraction=0.2)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[grads])
    assert trainer.tracker.pool is not None
    expected = [
        max(0.0, float(torch.cosine_similarity(grads.seen[i], grads.seen[i - 1], dim=0)))
        for i, unlearning in enumerate(trainer.plan.steps)
        if unlearning
    ]
    logged = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
    assert logged == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert max(logged) > 0


@pytest.mark.parametrize("name", ["npo", "simnpo"])
def test_the_loss_is_a_mean_over_the_chosen_texts(tmp_path, name):
    """Fewer may be chosen than a step could use: at the base model `npo` is 2/beta log 2."""
    trainer = train(
        LWFTrainer,
        config(
            tmp_path,
            **{**EVERY, "per_device_train_batch_size": 8},
            unlearning_loss=name,
            unlearning_strength=0.0,
            learning_rate=1e-12,
            num_train_epochs=3,
        ),
        FORGET,
    )
    assert len(trainer.tracker.pool) == 4 < trainer.texts_per_step
    losses = [e["unlearn/loss"] for e in trainer.state.log_history if "unlearn/loss" in e]
    if name == "npo":
        assert losses == pytest.approx([20 * math.log(2)] * len(losses), rel=1e-3)
    else:
        texts = [trainer.rescore.rows[index] for index in trainer.tracker.pool]
        log_probs = text_log_probs(trainer.model, texts)
        means = [
            v / sum(i != -100 for i in row["labels"])
            for v, row in zip(log_probs, texts, strict=True)
        ]
        expected = sum(2 / 2.5 * math.log1p(math.exp(2.5 * mean)) for mean in means) / 4
        assert losses[-1] == pytest.approx(expected, rel=1e-3)


def test_rescoring_does_not_work_with_losses_that_mix_in_learning(tmp_path):
    with pytest.raises(InputError, match="graddiff"):
        config(tmp_path, **EVERY, unlearning_loss="graddiff")


def test_rescoring_works_with_sgd(tmp_path):
    trainer = train(LWFTrainer, config(tmp_path, **EVERY, optim="sgd"), FORGET)
    assert trainer.tracker.pool is not None


def test_by_default_rescoring_costs_a_tenth_of_the_run(tmp_path, monkeypatch):
    """Before the first unlearning step, then 64 texts and 64 examples every 320 steps of 4."""
    scored = []
    inner = Rescore.scores

    def scores(rescore, *arguments):
        scored.append(rescore.trainer.state.global_step)
        return inner(rescore, *arguments)

    monkeypatch.setattr(Rescore, "scores", scores)
    trainer = train(LWFTrainer, config(tmp_path, rescore_interval=None), FORGET)
    assert (trainer.rescore.interval, scored) == (320, [trainer.plan.steps.index(True)])
    trainer = train(LWFTrainer, config(tmp_path, rescore_interval=None, rescore_texts=1), FORGET)
    learned = [trainer.plan.learned(at) for at in scored[1:]]
    assert (trainer.rescore.interval, learned) == (5, [3, 5, 10])


def test_while_no_text_helps_the_texts_are_scored_more_often(tmp_path, monkeypatch):
    """Before unlearning steps 1, 2, 4, 8 while the pool is empty; no longer once it has a text."""
    scored, helps_from = [], math.inf

    def scores(rescore, indices, learning):
        scored.append(rescore.trainer.plan.unlearned(rescore.trainer.state.global_step) + 1)
        return [1.0 if len(scored) >= helps_from else -1.0 for _ in indices]

    monkeypatch.setattr(Rescore, "scores", scores)
    arguments = {"rescore_interval": None, "unlearning_interval": 1, "num_train_epochs": 3}
    trainer = train(LWFTrainer, config(tmp_path, **arguments), FORGET)
    count = trainer.plan.unlearned(99)
    assert count >= 8
    assert scored == [step for step in (1, 2, 4, 8, 16, 32) if step <= count]
    assert trainer.tracker.pool == []
    scored.clear()
    helps_from = 2
    trainer = train(LWFTrainer, config(tmp_path, **arguments), FORGET)
    assert scored == [1, 2]
    assert trainer.tracker.pool


def test_without_rescoring_where_it_is_impossible(tmp_path):
    """An error if the user has set `rescore_interval`."""
    for changes in ({"unlearning_loss": "graddiff"}, {"unlearning_rate": 1e-4}):
        assert config(tmp_path, rescore_interval=None, **changes).rescore_interval == 0
    assert config(tmp_path, rescore_interval=None).rescore_interval is None
    trainer, _ = prepared(tmp_path, rescore_interval=None)
    args, model = trainer.args, trainer.model
    assert rescoring(args, model, DEFAULT_SCORE, sharded=True) is None
    model.requires_grad_(False)
    assert rescoring(args, model, DEFAULT_SCORE, sharded=False) is None
    args.rescore_interval = 2
    with pytest.raises(InputError, match="no linear layer is trained"):
        rescoring(args, model, DEFAULT_SCORE, sharded=False)
    with pytest.raises(InputError, match="FSDP"):
        rescoring(args, model, DEFAULT_SCORE, sharded=True)
