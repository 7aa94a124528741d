"""Gradient products by hooks against an autograd loop over single examples (padded batches)."""

import pytest
import torch
from helpers.models import language_model, make_model
from oracles import gradients as oracle
from scipy.stats import spearmanr

from letgo.data.tokens import batches_by_tokens
from letgo.models.inference import example_losses, pad_rows, round_weights
from letgo.scoring import products
from letgo.scoring.fisher import FISHER_KINDS, estimate, sampled_labels
from letgo.scoring.gradients import NonFinite, finite_batch, per_example
from letgo.scoring.measure import along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.scores import SCORES, LearningStats, top_fraction
from letgo.scoring.weights import scored_weights


def fisher_of(model, rows, kind="diagonal", tokens_per_batch=1000, **more):
    weights = scored_weights(model)
    batches = weights.batches([len(row["input_ids"]) for row in rows], tokens_per_batch)
    return estimate(kind, language_model(model), weights, rows, batches, **more)[0]


def wanted_products(fisher, delta):
    weighted = {name: fisher[name].times(d) for name, d in delta.items()}
    return {
        "linear": along(weighted),
        "inner": along(delta),
        "quadratic": fisher_norms(fisher),
        "norm": plain_norms,
    }


def delta_between(model, probe):
    theirs = scored_weights(probe).layers
    return {
        name: (layer.weight - theirs[name].weight).detach()
        for name, layer in scored_weights(model).layers.items()
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [1, 24, 1000])
def test_diagonal_fisher_equals_the_autograd_loop(rows, tied, tokens_per_batch):
    model = make_model(tied=tied)
    layers = scored_weights(model).layers
    assert ("lm_head" in layers) is not tied
    fast = fisher_of(model, rows, tokens_per_batch=tokens_per_batch)
    slow = oracle.diagonal_fisher(model, layers, rows)
    for name in layers:
        torch.testing.assert_close(fast[name].tensors["diagonal"], slow[name], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("tokens_per_batch", [1, 24, 1000])
def test_factored_fisher_is_made_of_the_diagonal_sums(rows, tokens_per_batch):
    model = make_model()
    fast = fisher_of(model, rows, "factored", tokens_per_batch)
    slow = oracle.diagonal_fisher(model, scored_weights(model).layers, rows)
    for name, diagonal in slow.items():
        torch.testing.assert_close(fast[name].tensors["rows"], diagonal.sum(1), rtol=1e-4, atol=0)
        columns = fast[name].tensors["columns"]
        torch.testing.assert_close(columns, diagonal.sum(0), rtol=1e-4, atol=0)
        product = torch.outer(diagonal.sum(1), diagonal.sum(0)) / diagonal.sum()
        v = torch.randn_like(diagonal)
        torch.testing.assert_close(fast[name].times(v), product * v, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("tokens_per_batch", [1, 1000])
def test_kfac_is_made_of_mean_outer_products(rows, tokens_per_batch):
    model = make_model()
    fast = fisher_of(model, rows, "kfac", tokens_per_batch)
    seen = oracle.signals(model, scored_weights(model).layers, rows)
    for name, pairs in seen.items():
        left = sum(g.T @ g for _, g in pairs) / len(rows)
        weights = [g.square().sum(1, keepdim=True) for _, g in pairs]  # (tokens, 1)
        right = sum((w * a).T @ a for w, (a, _) in zip(weights, pairs, strict=True))
        right /= sum(w.sum() for w in weights)
        torch.testing.assert_close(fast[name].tensors["left"], left, rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(fast[name].tensors["right"], right, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", list(FISHER_KINDS))
def test_norms_and_products_of_every_kind_agree_with_formed_gradients(rows, kind):
    """`norms` gives `<G, F G>`, the inner product of G with `times(G)`, for every kind of F."""
    model, probe = make_model(seed=0), make_model(seed=1)
    fisher, delta = fisher_of(probe, rows[:4], kind), delta_between(model, probe)
    batch = pad_rows(rows, 1)
    weights = scored_weights(model)
    result = gradient_products(model, weights, batch, wanted_products(fisher, delta))
    for i, row in enumerate(rows):
        loss, gradients = oracle.gradient_of_one(model, weights.layers, row)
        expected = {
            "loss": loss,
            "linear": sum((fisher[n].times(delta[n]) * g).sum() for n, g in gradients.items()),
            "inner": sum((delta[n] * g).sum() for n, g in gradients.items()),
            "quadratic": sum((fisher[n].times(g) * g).sum() for n, g in gradients.items()),
            "norm": sum((g * g).sum() for g in gradients.values()),
        }
        for key, value in expected.items():
            assert result[key][i].item() == pytest.approx(float(value), rel=2e-4, abs=1e-7), key


def test_the_square_comes_before_the_mean(rows):
    """The square of the batch's mean gradient (EasyCL's mistake) is far too small."""
    model = make_model()
    layers = scored_weights(model).layers
    right = fisher_of(model, rows)
    wrong = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for row in rows:
        for name, gradient in oracle.gradient_of_one(model, layers, row)[1].items():
            wrong[name] += gradient / len(rows)
    total = sum(f.tensors["diagonal"].sum() for f in right.values())
    assert sum((g**2).sum() for g in wrong.values()) < 0.5 * total


@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 1.0])
def test_fisher_distance_equals_the_published_formula(rows, alpha):
    model, probe = make_model(seed=0), make_model(seed=1)
    fisher, delta = fisher_of(probe, rows[:3]), delta_between(model, probe)
    weights = scored_weights(model)
    constant = sum((f.times(delta[n]) * delta[n]).sum().item() for n, f in fisher.items())
    result = gradient_products(model, weights, pad_rows(rows, 1), wanted_products(fisher, delta))
    theta = {name: layer.weight.detach() for name, layer in scored_weights(probe).layers.items()}
    diagonal = {name: f.tensors["diagonal"] for name, f in fisher.items()}
    for i, row in enumerate(rows):
        text = {key: value[i].item() for key, value in result.items()}
        fast = SCORES["fisher_distance"](text, LearningStats(constant, 1.0, 1.0, alpha))
        slow = oracle.confidence(model, weights.layers, row, diagonal, theta, alpha)
        assert fast == pytest.approx(slow, rel=1e-4)


def test_auto_alpha_gives_a_step_as_long_as_delta_and_no_scale():
    task = LearningStats(constant=3.0, length=2.0, learning=5.0, alpha=None)
    text = {"linear": 0.7, "quadratic": 0.5, "inner": 0.2, "learning": 0.3, "norm": 4.0}
    alpha = (task.constant / text["quadratic"]) ** 0.5
    by_hand = 0.5 * (task.constant - 2 * alpha * 0.7 + alpha**2 * 0.5)
    assert SCORES["fisher_distance"](text, task) == pytest.approx(by_hand)
    longer = {
        "linear": 7.0,
        "quadratic": 50.0,
        "inner": 2.0,
        "learning": 3.0,
        "norm": 400.0,
    }  # gradient x 10
    for name in ("fisher_distance", "fisher_cosine", "cosine", "gradient"):
        assert SCORES[name](longer, task) == pytest.approx(SCORES[name](text, task))
    assert SCORES["cosine"](text, task) == pytest.approx(-0.2 / 8**0.5)
    assert SCORES["gradient"](text, task) == pytest.approx(-0.3 / 20**0.5)
    assert SCORES["cosine"]({**text, "norm": 0.0}, task) == 0


@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize("kind", list(FISHER_KINDS))
def test_products_do_not_depend_on_batch_or_order(rows, size, kind):
    model = make_model()
    weights, fisher = scored_weights(model), fisher_of(make_model(seed=1), rows, kind)
    wanted = wanted_products(fisher, delta_between(model, make_model(seed=1)))

    def measured(order, size):
        out = {}
        for start in range(0, len(order), size):
            some = order[start : start + size]
            result = gradient_products(model, weights, pad_rows([rows[i] for i in some], 1), wanted)
            out.update(zip(some, torch.stack(list(result.values())).T, strict=True))
        return torch.stack([out[i] for i in range(len(rows))])

    reference = measured(list(range(len(rows))), 3)
    again = measured(list(reversed(range(len(rows)))), size)
    torch.testing.assert_close(again, reference, rtol=1e-4, atol=1e-6)


def test_products_equal_finite_differences(rows):
    """A small step along delta changes the loss by the step size times the inner product."""
    model, probe = make_model(seed=0).double(), make_model(seed=1).double()
    delta, weights = delta_between(model, probe), scored_weights(model)
    batch = pad_rows(rows, 1)
    result = gradient_products(model, weights, batch, {"inner": along(delta)})
    losses = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for name, layer in weights.layers.items():
                layer.weight += step * delta[name]
            losses.append(example_losses(model, batch).double())
    # The losses are float32, so their difference has few digits.
    slope = (losses[0] - losses[1]) / 2e-5
    torch.testing.assert_close(result["inner"], slope, rtol=0.05, atol=0.05)


def test_bf16_changes_the_numbers_little(rows):
    model, probe = make_model(seed=0), make_model(seed=1)
    weights = scored_weights(model)
    wanted = wanted_products(fisher_of(probe, rows, "factored"), delta_between(model, probe))
    exact = gradient_products(model, weights, pad_rows(rows, 1), wanted)
    rounded = gradient_products(model, weights, pad_rows(rows, 1), wanted, bf16=True)
    for key in exact:
        torch.testing.assert_close(rounded[key], exact[key], rtol=0.2, atol=0.1)
        assert spearmanr(rounded[key], exact[key]).statistic > 0.9


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(rows, reentrant):
    model, probe = make_model(seed=0), make_model(seed=1)
    weights = scored_weights(model)
    wanted = wanted_products(fisher_of(probe, rows), delta_between(model, probe))
    plain = gradient_products(model, weights, pad_rows(rows, 1), wanted)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()  # checkpointing is for training mode; this model has no dropout
    again = gradient_products(model, weights, pad_rows(rows, 1), wanted)
    for key in plain:
        torch.testing.assert_close(again[key], plain[key], rtol=1e-5, atol=1e-9)


def test_labels_are_sampled_per_example_from_the_models_predictions(rows):
    model = make_model()
    relabel = sampled_labels(language_model(model), 0)
    together, alone = relabel(pad_rows(rows, 1)), relabel(pad_rows(rows[4:5], 1))
    length = len(rows[4]["labels"])
    assert together.labels[4, :length].equal(alone.labels[0])
    before = pad_rows(rows, 1)
    assert (together.labels == -100).equal(before.labels == -100)
    assert not together.labels.equal(before.labels)
    # Over many seeds the frequency of a token approaches its probability.
    row = {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}
    batch = pad_rows([row], 1)
    with torch.no_grad():
        probabilities = model(batch.input_ids).logits[0, 1].softmax(0)
    sampled = torch.tensor(
        [int(sampled_labels(language_model(model), s)(batch).labels[0, 2]) for s in range(400)]
    )
    top = int(probabilities.argmax())
    frequency = (sampled == top).float().mean().item()
    assert frequency == pytest.approx(probabilities[top].item(), abs=0.1)


def test_weights_stay_trainable_and_without_gradients(rows):
    model = make_model()
    fisher_of(model, rows)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_examples_without_a_finite_loss_are_named_and_left_out(rows):
    model = make_model(tied=False)
    with torch.no_grad():  # every example with this token has an undefined loss
        model.get_input_embeddings().weight[310] = torch.nan
    rows = [*rows, {"input_ids": [5, 310, 7], "labels": [-100, -100, 7]}]
    weights = scored_weights(model)
    with pytest.raises(NonFinite) as error:
        per_example(model, weights, pad_rows(rows, 1), lambda *_: None)
    assert error.value.indices == [8]
    indices, _, left_out = finite_batch(
        language_model(model),
        rows,
        [3, 8, 1],
        lambda batch: per_example(model, weights, batch, lambda *_: None),
    )
    assert (indices, left_out) == ([3, 1], [8])
    batches = weights.batches([len(row["input_ids"]) for row in rows], 1000)
    fisher, left_out = estimate("diagonal", language_model(model), weights, rows, batches)
    assert left_out == [8]
    expected = fisher_of(model, rows[:8])
    for name in fisher:
        torch.testing.assert_close(fisher[name].tensors, expected[name].tensors)


def test_weights_rounded_to_bfloat16_change_nothing_under_autocast(rows):
    model, probe = make_model(seed=0), make_model(seed=1)
    fisher, delta = fisher_of(probe, rows), delta_between(model, probe)
    weights, wanted = scored_weights(model), wanted_products(fisher, delta)
    before = gradient_products(model, weights, pad_rows(rows, 1), wanted, bf16=True)
    round_weights(weights.layers.values())
    assert {layer.weight.dtype for layer in weights.layers.values()} == {torch.bfloat16}
    after = gradient_products(model, weights, pad_rows(rows, 1), wanted, bf16=True)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


def test_losses_are_per_example_means(rows):
    model = make_model()
    layers = scored_weights(model).layers
    with torch.no_grad():
        batched = example_losses(model, pad_rows(rows, 1))
    for loss, row in zip(batched.tolist(), rows, strict=True):
        assert loss == pytest.approx(oracle.gradient_of_one(model, layers, row)[0], rel=1e-5)


def test_ghost_norms_take_matrices_and_diagonals():
    torch.manual_seed(0)
    a, g = torch.randn(3, 5, 4), torch.randn(3, 5, 6)
    left, right = torch.rand(6, 6), torch.rand(4)
    left = left + left.T
    formed = list(products.gradients(a, g))
    expected = [torch.trace(left @ m @ torch.diag(right) @ m.T).item() for m in formed]
    assert products.norms(a, g, left, right).tolist() == pytest.approx(expected, rel=1e-4)


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
