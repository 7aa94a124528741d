"""The unlearning losses against their formulas, text by text."""

import pytest
import torch
from helpers.models import make_model
from helpers.training import FORGET, LEARN, config, text_log_probs, train, unlearner
from oracles import losses as oracle
from peft import LoraConfig

from letgo import LWFTrainer
from letgo.unlearning.losses import LOSSES
from letgo.unlearning.schedule import Plan
from letgo.unlearning.stream import MixedBatches

# Each text with an answer to its prompt that is to replace it.
PAIRED = [
    {
        **row,
        "right_input_ids": [*row["input_ids"][:2], 7 + i, 9, 8, 0],
        "right_labels": [-100, -100, 7 + i, 9, 8, 0],
    }
    for i, row in enumerate(FORGET)
]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_those_of_the_formula(tmp_path, name):
    """On a padded, prompt-masked batch, through TRL's fused head."""
    trainer = unlearner(tmp_path, PAIRED if LOSSES[name].pairs else FORGET, unlearning_loss=name)
    trainer.get_train_dataloader()
    trainer.plan, trainer.texts_per_step = Plan([True]), 4
    trainer.model.train()
    rows = [
        {**r, "reference": -20.0 - i} for i, r in enumerate(trainer.forget_dataset.to_list()[:4])
    ]
    rows += LEARN[:4] if LOSSES[name].mixes_learning else []
    batch = MixedBatches(None, trainer.data_collator)(rows)
    learning, reference = batch["learning"].tolist(), batch["reference"].tolist()
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = oracle.loss(name, logits, batch["labels"], reference, learning, LOSSES[name].beta)
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    tokens = (batch["labels"][:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for n, p in trainer.model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[n], rtol=1e-3, atol=1e-5, msg=n)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(tmp_path, name):
    """It makes the texts less likely; `replay` makes them more likely."""
    nll = {}
    for strength in (0.0, 1.0):
        arguments = config(
            tmp_path,
            unlearning_loss=name,
            unlearning_strength=strength,
            unlearning_interval=1,
            num_train_epochs=4,
        )
        trainer = train(LWFTrainer, arguments, PAIRED if LOSSES[name].pairs else FORGET)
        rows = trainer.forget_dataset.to_list()
        log_probs = text_log_probs(trainer.model, rows)
        nll[strength] = -sum(log_probs) / len(log_probs)
    # Random tokens are less likely than under a uniform distribution, so `kl_uniform` raises them.
    assert (nll[1.0] > nll[0.0]) is (name not in ("replay", "kl_uniform"))


def test_the_reference_is_that_of_the_base_model(tmp_path):
    """It is computed before the first step, or is the log-probability stored by `letgo elicit`."""
    trainer = unlearner(tmp_path, unlearning_loss="npo")
    model = make_model()
    expected = text_log_probs(model, FORGET)
    assert trainer.forget_dataset["reference"][:] == pytest.approx(expected, rel=1e-5)
    elicited = [
        {
            "prompt_ids": r["input_ids"][:2],
            "completion_ids": r["input_ids"][2:],
            "mean_logprob": -1.5,
        }
        for r in FORGET
    ]
    trainer = unlearner(tmp_path, forget=elicited, unlearning_loss="npo")
    assert trainer.forget_dataset["reference"][:] == [
        -1.5 * (len(r["input_ids"]) - 2) for r in FORGET
    ]


def test_the_reference_is_computed_without_the_adapter(tmp_path):
    adapter = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    trainer = unlearner(tmp_path, peft=adapter, unlearning_loss="npo")
    expected = text_log_probs(make_model(), FORGET)
    assert trainer.forget_dataset["reference"][:] == pytest.approx(expected, rel=1e-4)


def test_texts_above_the_ceiling_contribute_nothing(tmp_path):
    """The gradient is that of the texts below it; `ga` has no ceiling."""
    gradients = {}
    nll = [-v for v in text_log_probs(make_model(), FORGET[:4])]
    nll = [v / (len(r["input_ids"]) - 2) for v, r in zip(nll, FORGET, strict=False)]
    ceiling = sorted(nll)[1] + 1e-3  # two of four are below
    for name in ("ga", "bounded_ga"):
        trainer = unlearner(tmp_path, unlearning_loss=name, unlearning_ceiling=ceiling)
        trainer.get_train_dataloader()
        trainer.plan = Plan([True])
        trainer.model.train()
        batch = MixedBatches(None, trainer.data_collator)(
            [{**r, "reference": 0.0} for r in FORGET[:4]]
        )
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(30)).backward()
        gradients[name] = trainer.model.model.norm.weight.grad
        assert trainer.metrics.step_sums[3] == (2 if name == "bounded_ga" else 0)
    below = [r for r, v in zip(FORGET, nll, strict=False) if v < ceiling]
    trainer.model.zero_grad()
    batch = MixedBatches(None, trainer.data_collator)([{**r, "reference": 0.0} for r in below])
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(30)).backward()
    torch.testing.assert_close(gradients["bounded_ga"], trainer.model.model.norm.weight.grad)
    assert not torch.allclose(gradients["ga"], gradients["bounded_ga"])
