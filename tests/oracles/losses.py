"""The unlearning losses, text by text from the full logits, as in their papers."""

import math

import torch


def token_log_probs(logits, labels):
    """Log-probabilities of the labelled tokens of one text: (labels,), and their positions."""
    positions = [t for t in range(1, len(labels)) if labels[t] != -100]
    logs = torch.log_softmax(logits.float(), -1)
    return torch.stack([logs[t - 1, labels[t]] for t in positions]), logs[
        [t - 1 for t in positions]
    ]


def loss(name, logits, labels, reference, learning, beta):
    """The loss of a batch.

    Args:
        name: of the loss.
        logits: (batch, tokens, vocabulary).
        labels: (batch, tokens), -100 where nothing is predicted.
        reference: per text, its log-probability under the base model.
        learning: per text, whether it is a learning example or, for `pair`, a right answer; these
            follow the model's own answers, in the same order.
        beta: of the loss, if it has one.
    """
    texts = [token_log_probs(*pair) for pair in zip(logits, labels.tolist(), strict=True)]
    tokens = sum(len(chosen) for chosen, _ in texts)
    count = sum(not flag for flag in learning)
    total = torch.zeros(())
    triples = zip(texts, reference, learning, strict=True)
    others = iter([(chosen.sum(), base) for (chosen, _), base, learn in triples if not learn])
    for (chosen, whole), base, learn in zip(texts, reference, learning, strict=True):
        p = chosen.exp()
        if name in ("ga", "bounded_ga"):
            total = total + chosen.sum() / tokens
        elif name == "replay":
            total = total - chosen.sum() / tokens
        elif name == "unlikelihood":
            total = total - (1 - p * (1 - 1e-4)).log().sum() / tokens
        elif name == "npo":
            odds = beta * (chosen.sum() - base)
            total = total - 2 / beta * torch.log(torch.sigmoid(-odds)) / count
        elif name == "simnpo":
            total = total - 2 / beta * torch.log(torch.sigmoid(-beta * chosen.mean())) / count
        elif name == "pair" and learn:
            own, own_base = next(others)
            odds = beta * ((chosen.sum() - base) - (own - own_base))
            total = total + (-torch.log(torch.sigmoid(odds)) - chosen.mean()) / count
        elif name == "graddiff":
            total = total + (-1 if learn else 1) * chosen.mean() / count
        elif name == "kl_uniform":
            uniform = math.log(1 / whole.shape[1])
            total = total + (whole.exp() * (whole - uniform)).sum() / tokens
        elif name == "wga":
            total = total + (p.detach() ** beta * chosen).sum() / tokens
    return total
