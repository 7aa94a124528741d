"""Forgetting scores: pure functions of a few numbers per text; higher is forgotten first.

With `g_x` the gradient of the text's mean NLL at the base model, `g_L` the mean gradient of
learning examples there, `delta = theta_base - theta_L*` and `F` the learning task's Fisher
information, a text is known by

    linear     <F delta, g_x>   inner     <delta, g_x>    loss_base
    quadratic  <g_x, F g_x>     learning  <g_L, g_x>      loss_probe
                                norm      <g_x, g_x>

so every score can be had from `scores.parquet` afterwards, without a new gradient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Task:
    """What the texts are measured against, the same for all.

    Args:
        constant: `<delta, F delta>`.
        length: `<delta, delta>`.
        learning: `<g_L, g_L>`.
        alpha: step length of the published score; None for `auto`.
    """

    constant: float
    length: float
    learning: float
    alpha: float | None


Text = Mapping[str, float]


def fisher_distance(text: Text, task: Task) -> float:
    """The published forgetting confidence (arXiv 2505.19715), with the square expanded.

        FC(x) = 1/2 <d, F d>,  d = theta_base - alpha g_x - theta_L*
              = 1/2 (constant - 2 alpha linear + alpha^2 quadratic)

    `alpha = None` chooses for every text the step that is as long as the probe's way, both measured
    by the learning task's Fisher information: `alpha^2 quadratic = constant`. Then

        FC(x) = constant (1 - linear / sqrt(constant quadratic))

    which depends on the direction of `g_x` alone, and ranks as `fisher_cosine`.
    """
    if task.alpha is None:
        return task.constant * (1 + fisher_cosine(text, task))
    alpha = task.alpha
    return 0.5 * (task.constant - 2 * alpha * text["linear"] + alpha**2 * text["quadratic"])


def linear(text: Text, task: Task) -> float:
    """The published score for a small alpha: `-<F delta, g_x>`."""
    return -text["linear"]


def gradient(text: Text, task: Task) -> float:
    """How straight a step of ascent on the text lowers the learning loss now: `-cos(g_L, g_x)`.

    A normalised step of ascent of length `s` changes the learning loss by `s <g_L, g_x> / |g_x|`,
    to first order. Re-scoring asks the same of the model as it is then.
    """
    return -_ratio(text["learning"], task.learning * text["norm"])


def cosine(text: Text, task: Task) -> float:
    """The same along the whole way that learning takes: `-cos(delta, g_x)`."""
    return -_ratio(text["inner"], task.length * text["norm"])


def fisher_cosine(text: Text, task: Task) -> float:
    """That cosine with lengths and angles measured by the Fisher information."""
    return -_ratio(text["linear"], task.constant * text["quadratic"])


def interference(text: Text, task: Task) -> float:
    """What learning cost the text: its loss after the probe minus before, nats per token."""
    return text["loss_probe"] - text["loss_base"]


def _ratio(product: float, squares: float) -> float:
    return 0.0 if squares <= 0 else product / math.sqrt(squares)  # undefined stays undefined


SCORES: Mapping[str, Callable[[Text, Task], float]] = {
    "fisher_distance": fisher_distance,
    "linear": linear,
    "gradient": gradient,
    "cosine": cosine,
    "fisher_cosine": fisher_cosine,
    "interference": interference,
}
DEFAULT_SCORE = "gradient"
# The product with a direction that decides each score's sign, where there is one.
PRODUCT_OF = {
    "fisher_distance": "linear",
    "linear": "linear",
    "fisher_cosine": "linear",
    "cosine": "inner",
    "gradient": "learning",
}


K = TypeVar("K", int, str)


def top_fraction(ids: Sequence[K], confidence: Sequence[float], fraction: float) -> set[K]:
    """The ids of the most confident texts; at least one. Equal confidence goes by id.

    Args:
        ids: of all texts, of a kind that has an order.
        confidence: in the same order; higher is forgotten first.
        fraction: in (0, 1].
    """
    return {ids[i] for i in ranked(ids, confidence)[: top_count(fraction, len(ids))]}


def ranked(ids: Sequence[K], confidence: Sequence[float]) -> list[int]:
    """Places of texts, most confident first; equal confidence goes by id."""
    return sorted(range(len(ids)), key=lambda i: (-confidence[i], ids[i]))


def top_count(fraction: float, known: int) -> int:
    """How many texts a share in (0, 1] of them is; at least one."""
    return max(1, round(fraction * known))
