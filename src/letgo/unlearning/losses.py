"""The unlearning losses, minimized in unlearning steps.

Each loss maps one micro-batch to its share of the loss of the whole optimizer step: the shares of
all micro-batches add up to that loss. All are computed from the model's log-probabilities and
entropies at the texts' own tokens; none needs the logits or a second model. An entry in `LOSSES`
is all that a new loss needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class TextBatch(NamedTuple):
    """A micro-batch of an unlearning step.

    Attributes:
        log_probs: (texts, tokens) log-probability of each token; 0 where there is no label.
        entropy: (texts, tokens) entropy of the predicted distribution, in nats.
        labelled: (texts, tokens) whether there is a label.
        learning: (texts,) whether it is a learning example, with `Loss.mixes_learning`, or the
            right answer to the prompt of a text, with `Loss.pairs`.
        reference: (texts,) log-probability of the labelled tokens under the base model; only with
            `Loss.needs_reference`.
        tokens: labels in the whole optimizer step.
        examples: texts to unlearn in the whole optimizer step.
        vocabulary: size of the vocabulary.
    """

    log_probs: Tensor
    entropy: Tensor
    labelled: Tensor
    learning: Tensor
    reference: Tensor
    tokens: Tensor | float
    examples: float
    vocabulary: int

    @classmethod
    def of_outputs(cls, outputs: Any, *others: Any) -> "TextBatch":
        """The labelled texts, from the outputs of TRL's fused head and the other attributes."""
        texts = cls(outputs.log_probs, outputs.entropy, outputs.label_mask, *others)
        return texts.rows(texts.labelled.any(1))

    @property
    def lengths(self) -> Tensor:
        """(texts,) labels of each text, at least 1."""
        return self.labelled.sum(1).clamp(min=1)

    @property
    def nll(self) -> Tensor:
        """(texts,) mean NLL of each text, nats per token, without a gradient."""
        return -self.log_probs.detach().sum(1) / self.lengths

    def in_conflict(self, base: Tensor) -> "TextBatch":
        """Only those labels that learning has made less likely than they were: log p < log p0.

        Learning examples and right answers keep all of theirs.

        Args:
            base: (texts, tokens) log-probability of each token under the base model.
        """
        kept = (self.log_probs.detach() < base) | self.learning[:, None]
        kept &= self.labelled
        reference = torch.where(self.learning, self.reference, (base * kept).sum(1))
        log_probs = self.log_probs.masked_fill(~kept, 0)
        return self._replace(log_probs=log_probs, labelled=kept, reference=reference)

    def rows(self, mask: Tensor) -> "TextBatch":
        """The texts of a boolean mask (texts,), which may select none; the loss is 0 then."""
        names = ("log_probs", "entropy", "labelled", "learning", "reference")
        return self._replace(**{name: getattr(self, name)[mask] for name in names})


@dataclass(frozen=True)
class Loss:
    """An unlearning loss and what it needs.

    Args:
        function: from a micro-batch and `beta` to the micro-batch's share of the loss, a scalar.
        summary: what it minimizes, for `--help`.
        beta: default of `--unlearning_beta`, from the loss's paper; None if the loss has none.
        bounded: whether the guard `--unlearning_ceiling` applies to it.
        needs_reference: whether it reads `TextBatch.reference`.
        mixes_learning: whether an unlearning step also gets as many learning examples as texts.
        pairs: whether every text comes with the right answer to its prompt, which is not mixed with
            others: right answers follow the texts of a micro-batch in their order.
    """

    function: Callable[[TextBatch, float], Tensor]
    summary: str
    beta: float | None = None
    bounded: bool = True
    needs_reference: bool = False
    mixes_learning: bool = False
    pairs: bool = False

    def __call__(self, texts: TextBatch, beta: float | None) -> Tensor:
        """The micro-batch's share of the loss; `beta` is ignored by losses without one."""
        return self.function(texts, beta or 0.0)


def ga(texts: TextBatch, beta: float) -> Tensor:
    """Gradient ascent on the mean NLL: the paper's (arXiv 2505.19715); minus TRL's loss.

    Unbounded: nothing stops it from pushing a text that is already forgotten.
    """
    return texts.log_probs.sum() / texts.tokens


def npo(texts: TextBatch, beta: float) -> Tensor:
    """Negative preference optimization (Zhang et al. 2024, arXiv 2404.05868, eq. 3).

    `-2/beta log sigmoid(-beta log(pi/pi_ref))`, the mean over texts; its gradient fades as a text
    becomes less likely than under the base model.
    """
    ratio = texts.log_probs.sum(1) - texts.reference
    return (2 / beta) * softplus(beta * ratio).sum() / texts.examples


def simnpo(texts: TextBatch, beta: float) -> Tensor:
    """NPO without a reference, by mean log-probability (Fan et al. 2024, arXiv 2410.07163).

    `-2/beta log sigmoid(-beta/length log pi)` with margin 0.
    """
    mean = texts.log_probs.sum(1) / texts.lengths
    return (2 / beta) * softplus(beta * mean).sum() / texts.examples


def graddiff(texts: TextBatch, beta: float) -> Tensor:
    """Gradient difference (Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121).

    Ascent on the texts and descent on as many learning examples, each by its mean NLL.
    """
    mean = texts.log_probs.sum(1) / texts.lengths
    return torch.where(texts.learning, -mean, mean).sum() / texts.examples


def kl_uniform(texts: TextBatch, beta: float) -> Tensor:
    """Towards the uniform distribution: KL(p || uniform) = log V - H(p), the mean over tokens.

    Maximum entropy (Yuan et al. 2024, arXiv 2410.08109, eq. 5). Bounded, because it has a target
    distribution.
    """
    divergence = (math.log(texts.vocabulary) - texts.entropy) * texts.labelled
    return divergence.sum() / texts.tokens


def wga(texts: TextBatch, beta: float) -> Tensor:
    """Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301).

    Each token's ascent is weighted by its probability to the power `beta`, held constant: tokens
    that are already unlikely hardly change.
    """
    weights = (beta * texts.log_probs.detach()).exp()
    return (weights * texts.log_probs).sum() / texts.tokens


def unlikelihood(texts: TextBatch, beta: float) -> Tensor:
    """-log(1 - p) of each token, the mean (Welleck et al. 2020, arXiv 1908.04319, eq. 2).

    Its gradient fades as a token becomes unlikely: what is forgotten is not pushed further.
    """
    # A probability of 1 would give an infinite loss.
    other = torch.log1p(-texts.log_probs.exp() * (1 - 1e-4))
    return -(other * texts.labelled).sum() / texts.tokens


ANCHOR = 1.0  # weight of the right answer's NLL in `pair`, as in IRPO


def pair(texts: TextBatch, beta: float) -> Tensor:
    """The right answer against the model's own, anchored (IRPO, arXiv 2404.19733, eq. 1 and 2).

    `-log sigmoid(beta (log p(y+)/p0(y+) - log p(y-)/p0(y-))) + NLL(y+) / length`, the mean over
    pairs; its gradient fades as the two answers part.
    """
    own, right = texts.rows(~texts.learning), texts.rows(texts.learning)
    ratios = [part.log_probs.sum(1) - part.reference for part in (right, own)]
    nll = -right.log_probs.sum(1) / right.lengths
    return (softplus(-beta * (ratios[0] - ratios[1])) + ANCHOR * nll).sum() / texts.examples


def replay(texts: TextBatch, beta: float) -> Tensor:
    """Descent on the texts' mean NLL: the opposite of unlearning, as a baseline."""
    return -ga(texts, beta)


LOSSES: dict[str, Loss] = {
    "bounded_ga": Loss(ga, "gradient ascent up to the ceiling"),
    "ga": Loss(ga, "gradient ascent without a bound (the paper's)", bounded=False),
    "npo": Loss(npo, "negative preference optimization", beta=0.1, needs_reference=True),
    "simnpo": Loss(simnpo, "the same without a reference model", beta=2.5),
    "graddiff": Loss(
        graddiff, "ascent on texts, descent on learning examples", mixes_learning=True
    ),
    "kl_uniform": Loss(kl_uniform, "KL divergence from the uniform distribution"),
    "wga": Loss(wga, "ascent weighted by each token's probability", beta=1.0),
    "unlikelihood": Loss(unlikelihood, "-log(1 - p) of each token; it saturates", bounded=False),
    "pair": Loss(
        pair,
        "the right answer to a prompt against the model's own",
        beta=0.1,
        bounded=False,
        needs_reference=True,
        pairs=True,
    ),
    "replay": Loss(replay, "descent on the texts, a baseline", bounded=False),
}
DEFAULT_LOSS = "bounded_ga"
