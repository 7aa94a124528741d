"""The loss of keep steps, label by label from the full logits of two models."""

import torch


def divergence(model_logits, base_logits, k=None):
    """KL(base || model) at one label, from logits (vocabulary,).

    With `k` all tokens but the base model's k likeliest are one.
    """
    ours, theirs = (torch.softmax(logits.double(), -1) for logits in (model_logits, base_logits))
    if k is not None and k < len(theirs):
        top = theirs.argsort(descending=True)[:k]
        ours, theirs = (torch.cat([p[top], (1 - p[top].sum())[None]]) for p in (ours, theirs))
    return sum(t * (t / o).log() for t, o in zip(theirs, ours, strict=True) if t > 0)


def loss(model, base, rows, kind, k):
    """The mean over all labels of all rows, each row alone in its batch."""
    values = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        ours = model(ids).logits[0]
        with torch.no_grad():
            theirs = base(ids).logits[0]
        for t in range(1, len(row["labels"])):
            if row["labels"][t] == -100:
                continue
            if kind == "nll":
                values.append(-torch.log_softmax(ours[t - 1].double(), -1)[row["labels"][t]])
            else:
                values.append(divergence(ours[t - 1], theirs[t - 1], k))
    return sum(values) / len(values)
