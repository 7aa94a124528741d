"""Per-example gradients by a batch-of-one autograd loop."""

import torch
from torch.nn.functional import cross_entropy


def gradient_of_one(model, layers, row):
    """Loss and weight gradients of a single example: no padding, no hooks, plain autograd."""
    for parameter in model.parameters():
        parameter.grad = None
    ids = torch.tensor([row["input_ids"]])
    labels = torch.tensor(row["labels"])
    logits = model(input_ids=ids).logits[0]
    loss = cross_entropy(logits[:-1], labels[1:], ignore_index=-100)  # mean over the completion
    loss.backward()
    gradients = {name: layer.weight.grad.clone() for name, layer in layers.items()}
    for parameter in model.parameters():
        parameter.grad = None
    return loss.item(), gradients


def diagonal_fisher(model, layers, rows):
    """Mean over examples of the squared gradient."""
    total = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for row in rows:
        for name, gradient in gradient_of_one(model, layers, row)[1].items():
            total[name] += gradient**2
    return {name: tensor / len(rows) for name, tensor in total.items()}


def confidence(model, layers, row, fisher, optimum, alpha):
    """The published formula, literally: 1/2 sum F (theta_base - alpha g - theta_L*)^2."""
    gradients = gradient_of_one(model, layers, row)[1]
    total = 0.0
    for name, layer in layers.items():
        moved = layer.weight.detach() - alpha * gradients[name] - optimum[name]
        total += 0.5 * (fisher[name].double() * moved.double() ** 2).sum().item()
    return total


def signals(model, layers, rows):
    """Input (tokens, in) and output gradient (tokens, out) of every layer, example by example."""
    found = {name: [] for name in layers}
    for row in rows:
        kept = _kept(model, layers, row)
        for (name, (a, _)), g in zip(kept[1].items(), kept[0], strict=True):
            found[name].append((a.detach(), g[0]))
    return found


def _kept(model, layers, row):
    kept = {}
    handles = [
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: kept.update({name: (inputs[0][0], output)})
        )
        for name, layer in layers.items()
    ]
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
    loss = cross_entropy(logits[:-1], torch.tensor(row["labels"])[1:], ignore_index=-100)
    gradients = torch.autograd.grad(loss, [output for _, output in kept.values()])
    for handle in handles:
        handle.remove()
    return gradients, kept


def gradients_by_matrix(model, row):
    """Loss, and the gradient of every weight matrix (out, in) under letgo's names, of one example.

    Everything with two or more dimensions counts, but not embeddings and what is tied to them.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for parameter in model.parameters():
        parameter.grad = None
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
    loss = cross_entropy(logits[:-1], torch.tensor(row["labels"])[1:], ignore_index=-100)
    loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in embeddings:
            continue
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        owner = model.get_submodule(name.rpartition(".")[0])
        if type(owner).__name__ == "Conv1D":
            found[name.removesuffix(".weight")] = gradient.T
        elif isinstance(owner, torch.nn.Linear):
            found[name.removesuffix(".weight")] = gradient
        elif gradient.ndim == 3 and 1 not in gradient.shape:
            found |= {f"{name}[{i}]": matrix for i, matrix in enumerate(gradient)}
        else:
            found[name] = gradient.flatten(1)
        parameter.grad = None
    for parameter in model.parameters():
        parameter.grad = None
    return loss.item(), found
