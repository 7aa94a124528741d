"""The hooks against a batch-of-one autograd loop, on padded, prompt-masked batches."""

import pytest
import torch
from conftest import make_model
from oracles import gradients as oracle

from letgo.confidence.fisher import diagonal_fisher
from letgo.confidence.gradients import linear_layers
from letgo.confidence.scores import fisher_distance, gradient_products, weight_differences
from letgo.data import batches_by_tokens, top_fraction
from letgo.inference import example_losses, pad_rows


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [1, 24, 1000])
def test_fisher_equals_the_autograd_loop(rows, tied, tokens_per_batch):
    model = make_model(tied=tied)
    layers = linear_layers(model)
    assert ("lm_head" in layers) is not tied
    fast = diagonal_fisher(model, layers, rows, 1, tokens_per_batch)
    slow = oracle.diagonal_fisher(model, layers, rows)
    for name in layers:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-4, atol=1e-9)


def test_the_square_comes_before_the_mean(rows):
    """EasyCL's mistake, the square of the batch's mean gradient, is far off."""
    model = make_model()
    layers = linear_layers(model)
    right = diagonal_fisher(model, layers, rows, 1, 1000)
    wrong = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for row in rows:
        for name, gradient in oracle.gradient_of_one(model, layers, row)[1].items():
            wrong[name] += gradient / len(rows)
    assert sum((g**2).sum() for g in wrong.values()) < 0.5 * sum(f.sum() for f in right.values())


@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 1.0])
def test_confidence_equals_the_formula(rows, alpha):
    model, probe = make_model(seed=0), make_model(seed=1)
    layers, optimum = linear_layers(model), linear_layers(probe)
    fisher = oracle.diagonal_fisher(probe, optimum, rows[:3])
    delta = weight_differences(layers, optimum)
    weighted = {name: fisher[name] * delta[name] for name in layers}
    constant = sum((fisher[n].double() * delta[n].double() ** 2).sum().item() for n in layers)
    losses, linear, quadratic = gradient_products(
        model, layers, pad_rows(rows, 1), weighted, fisher
    )
    theta = {name: layer.weight.detach() for name, layer in optimum.items()}
    for i, row in enumerate(rows):
        fast = fisher_distance(linear[i].item(), quadratic[i].item(), constant, alpha)
        slow = oracle.confidence(model, layers, row, fisher, theta, alpha)
        assert fast == pytest.approx(slow, rel=1e-4)
        loss = oracle.gradient_of_one(model, layers, row)[0]
        assert losses[i].item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_scores_do_not_depend_on_batch_or_order(rows, size):
    model = make_model()
    layers = linear_layers(model)
    fisher = oracle.diagonal_fisher(model, layers, rows)

    def products(order, size):
        out = {}
        for start in range(0, len(order), size):
            some = order[start : start + size]
            batch = pad_rows([rows[i] for i in some], 1)
            columns = gradient_products(model, layers, batch, fisher, fisher)
            out.update(zip(some, torch.stack([c.double() for c in columns]).T, strict=True))
        return torch.stack([out[i] for i in range(len(rows))])

    reference = products(list(range(len(rows))), 3)
    again = products(list(reversed(range(len(rows)))), size)
    torch.testing.assert_close(again, reference, rtol=1e-4, atol=1e-8)


def test_weights_come_back_trainable_and_without_gradients(rows):
    model = make_model()
    diagonal_fisher(model, linear_layers(model), rows, 1, 100)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_losses_are_per_example_means(rows):
    model = make_model()
    layers = linear_layers(model)
    with torch.no_grad():
        batched = example_losses(model, pad_rows(rows, 1))
    for loss, row in zip(batched.tolist(), rows, strict=True):
        assert loss == pytest.approx(oracle.gradient_of_one(model, layers, row)[0], rel=1e-5)


def test_top_fraction_breaks_ties_by_id():
    ids = ["c", "a", "b", "d"]
    assert top_fraction(ids, [1.0, 1.0, 1.0, 2.0], 0.5) == {"d", "a"}
    assert top_fraction(ids, [1.0, 2.0, 3.0, 4.0], 0.01) == {"d"}
    assert top_fraction(ids, [1.0, 2.0, 3.0, 4.0], 1.0) == set(ids)


def test_batches_hold_every_example_once_within_the_budget():
    lengths = [5, 9, 2, 40, 7, 7, 1]
    batches = batches_by_tokens(lengths, 20)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 20
