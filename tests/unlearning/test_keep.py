"""Keep steps: their loss against a slow oracle, and what a training with them must not change."""

from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, KEEP, LEARN, config, same, train, watched, weights
from oracles import keep as oracle
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTTrainer

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.models.inference import labelled_logits, pad_rows
from letgo.unlearning.keep import divergence, keep_loss, prepare_keep
from letgo.unlearning.schedule import Step


def test_the_divergence_from_every_token_is_the_whole_one():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 5, 11)
    top = theirs.log_softmax(-1).topk(11)
    expected = [oracle.divergence(a, b) for a, b in zip(ours, theirs, strict=True)]
    found = divergence(ours, top.indices, top.values)
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_fewer_stored_tokens_give_a_lower_bound():
    torch.manual_seed(1)
    ours, theirs = torch.randn(2, 6, 40)
    logs, found = theirs.log_softmax(-1), []
    for k in (1, 4, 16, 40):
        top = logs.topk(k)
        found.append(divergence(ours, top.indices, top.values))
        expected = [oracle.divergence(a, b, k) for a, b in zip(ours, theirs, strict=True)]
        torch.testing.assert_close(found[-1].double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    for fewer, more in pairwise(found):
        assert (fewer <= more + 1e-6).all()
    same_model = divergence(theirs, *reversed(logs.topk(4)))
    torch.testing.assert_close(same_model, torch.zeros(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "k"), [("kl", 320), ("kl", 5), ("nll", 5)])
def test_a_padded_batch_gives_the_oracle_s_loss_and_gradient(tmp_path, kind, k):
    base, model = make_model(0), make_model(1)
    arguments = config(tmp_path, keep_loss=kind, keep_top_k=k)
    rows = prepare_keep(Dataset.from_list(KEEP), base, make_tokenizer(), arguments, None).to_list()
    batch = pad_rows(KEEP, 1)
    labels = batch.labels[:, 1:]
    tops = [[x for row in rows for x in row[name]] for name in ("top_ids", "top_log_probs")]
    tops = [torch.tensor(top) if kind == "kl" else torch.empty(0) for top in tops]
    logits = labelled_logits(model, batch)
    loss = keep_loss(logits, labels[labels != -100], *tops, kind) / len(logits)
    expected = oracle.loss(model, base, KEEP, kind, k)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)
    parameters = list(model.parameters())
    ours, theirs = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_steps_and_the_learning_batches(tmp_path):
    _, plain = watched(SFTTrainer, config(tmp_path))
    trainer, watch = watched(LWFTrainer, config(tmp_path, keep_share=0.5), FORGET, KEEP)
    kinds = trainer.plan.steps
    assert kinds.count(Step.KEEP) == 6
    assert kinds.count(Step.UNLEARN) == 4
    learned = [step for step, kind in zip(watch.steps, kinds, strict=True) if kind == Step.LEARN]
    assert learned == plain.steps
    rates = [rate for rate, kind in zip(watch.rates, kinds, strict=True) if kind == Step.LEARN]
    assert rates == plain.rates
    known = [row["input_ids"] for row in KEEP]
    for step, kind in zip(watch.steps, kinds, strict=True):
        rows = [[i for i in row if i != 1] for micro in step for row in micro]
        assert (rows[0] in known) is (kind == Step.KEEP)
    logs = trainer.state.log_history[:-1]
    for entry, kind in zip(logs, kinds, strict=True):
        assert ("keep/loss" in entry) is (kind == Step.KEEP)
        assert ("loss" in entry) is (kind == Step.LEARN)
    assert logs[-1]["keep/steps"] == 6


@pytest.mark.parametrize("changes", [{"keep_share": 0.0}, {"keep_share": 0.05}])
def test_without_keep_steps_the_weights_are_those_of_trl(tmp_path, changes):
    arguments = {"unlearning_interval": 0, **changes}
    plain = train(SFTTrainer, config(tmp_path))
    ours = train(LWFTrainer, config(tmp_path, **arguments), keep=KEEP)
    assert same(weights(ours), weights(plain))


def test_keep_steps_hold_the_base_model_s_predictions(tmp_path):
    base, rows = make_model(), [{**row, "labels": row["input_ids"]} for row in KEEP]
    distances = []
    for keep in (None, rows):
        trainer = train(LWFTrainer, config(tmp_path, keep_share=1.0), keep=keep)
        with torch.no_grad():
            distances.append(float(oracle.loss(trainer.model, base, rows, "kl", None)))
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("at", range(3, 9))
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_inside_every_kind_of_step_equals_uninterrupted(tmp_path, at, accumulation):
    changes = {
        "keep_share": 0.5,
        "unlearning_interval": 2,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 4 // accumulation,
    }
    whole = train(LWFTrainer, config(tmp_path / "whole", **changes), FORGET, keep=KEEP)
    assert {whole.plan.step(number) for number in range(3, 9)} == set(Step)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == at

    cut = config(tmp_path / "cut", **changes)
    train(LWFTrainer, cut, FORGET, callbacks=[Stop()], keep=KEEP)
    checkpoint = str(tmp_path / "cut" / f"checkpoint-{at}")
    resumed = train(LWFTrainer, cut, FORGET, resume=checkpoint, keep=KEEP)
    assert same(weights(resumed), weights(whole))


def test_an_adapter_is_kept_to_the_model_without_it(tmp_path):
    """The reference is the base model even if the adapter is not neutral at the start."""
    adapter = LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False)
    trainer = train(LWFTrainer, config(tmp_path, keep_top_k=320), keep=KEEP, peft=adapter)
    base = make_model()
    for row in trainer.keep_dataset:
        batch = pad_rows([row], 1)
        with torch.no_grad():
            expected = labelled_logits(base, batch).log_softmax(-1)
        found = torch.empty_like(expected).scatter_(
            1, torch.tensor(row["top_ids"]), torch.tensor(row["top_log_probs"])
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_texts_of_another_tokenizer_are_refused(tmp_path):
    rows = [{"input_ids": [5, 400], "labels": [-100, 400]}]
    with pytest.raises(InputError, match="another tokenizer"):
        train(LWFTrainer, config(tmp_path), keep=rows)
    assert len(LEARN) == 22
