"""The unlearning losses: what an unlearning step descends on.

Each is a function from one micro-batch to its share of the loss of the whole optimizer step, so
that the shares of all micro-batches add up to it. All are made of the model's log-probabilities and
entropies at the texts' own tokens; none needs the logits or a second model.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Texts(NamedTuple):
    """A micro-batch of an unlearning step.

    Attributes:
        log_probs: (texts, tokens) of each token given those before it; 0 where there is no label.
        entropy: (texts, tokens) of the distribution each token was drawn from, in nats.
        labelled: (texts, tokens) whether there is a label.
        learning: (texts,) True for learning examples mixed in (`graddiff` alone).
        reference: (texts,) log-probability of the whole text under the base model.
        tokens: labels in the whole optimizer step.
        examples: texts to forget in the whole optimizer step.
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

    @property
    def lengths(self) -> Tensor:
        """(texts,) labels of each text, at least 1."""
        return self.labelled.sum(1).clamp(min=1)

    @property
    def nll(self) -> Tensor:
        """(texts,) mean NLL of each text, nats per token, without a gradient."""
        return -self.log_probs.detach().sum(1) / self.lengths

    def rows(self, kept: Tensor) -> "Texts":
        """The texts of a boolean mask (texts,); a loss over none of them is 0."""
        return self._replace(
            log_probs=self.log_probs[kept],
            entropy=self.entropy[kept],
            labelled=self.labelled[kept],
            learning=self.learning[kept],
            reference=self.reference[kept],
        )


def ga(texts: Texts, beta: float) -> Tensor:
    """Gradient ascent on the mean NLL: the paper's (arXiv 2505.19715); minus TRL's loss.

    Unbounded: nothing stops it from pushing a text that is long forgotten.
    """
    return texts.log_probs.sum() / texts.tokens


def npo(texts: Texts, beta: float) -> Tensor:
    """Negative preference optimization (Zhang et al. 2024, arXiv 2404.05868, eq. 3).

    `-2/beta log sigmoid(-beta log(pi/pi_ref))`, the mean over texts; its gradient fades as a text
    becomes less likely than under the base model.
    """
    ratio = texts.log_probs.sum(1) - texts.reference
    return (2 / beta) * softplus(beta * ratio).sum() / texts.examples


def simnpo(texts: Texts, beta: float) -> Tensor:
    """NPO without a reference, by mean log-probability (Fan et al. 2024, arXiv 2410.07163).

    `-2/beta log sigmoid(-beta/length log pi)` with margin 0.
    """
    mean = texts.log_probs.sum(1) / texts.lengths
    return (2 / beta) * softplus(beta * mean).sum() / texts.examples


def graddiff(texts: Texts, beta: float) -> Tensor:
    """Gradient difference (Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121).

    Ascent on the texts and descent on as many learning examples, each by its mean NLL.
    """
    mean = texts.log_probs.sum(1) / texts.lengths
    return torch.where(texts.learning, -mean, mean).sum() / texts.examples


def kl_uniform(texts: Texts, beta: float) -> Tensor:
    """Towards the uniform distribution: KL(p || uniform) = log V - H(p), the mean over tokens.

    Maximum entropy (Yuan et al. 2024, arXiv 2410.08109, eq. 5): bounded, and it says what to
    become, not only what to leave.
    """
    divergence = (math.log(texts.vocabulary) - texts.entropy) * texts.labelled
    return divergence.sum() / texts.tokens


def wga(texts: Texts, beta: float) -> Tensor:
    """Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301).

    Each token's ascent is weighted by its probability to the power `beta`, held constant: tokens
    that are unlikely already are left alone.
    """
    weights = (beta * texts.log_probs.detach()).exp()
    return (weights * texts.log_probs).sum() / texts.tokens


def replay(texts: Texts, beta: float) -> Tensor:
    """The opposite of forgetting, as a baseline: descent on the texts' mean NLL."""
    return -ga(texts, beta)


# `ga` is the paper's, without a bound; `bounded_ga` is the same under the ceiling, like the rest.
LOSSES: dict[str, Callable[[Texts, float], Tensor]] = {
    "bounded_ga": ga,
    "ga": ga,
    "npo": npo,
    "simnpo": simnpo,
    "graddiff": graddiff,
    "kl_uniform": kl_uniform,
    "wga": wga,
    "replay": replay,
}
# As their papers set them; the other losses have none.
BETAS = {"npo": 0.1, "simnpo": 2.5, "wga": 1.0}
UNBOUNDED = ("ga", "replay")
