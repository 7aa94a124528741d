"""Forgetting scores: pure functions of a few numbers per text; higher is forgotten first.

Let `g_x` be the gradient of the text's mean NLL at the base model, `g_L` the mean gradient of
learning examples there, `delta = theta_base - theta_L*`, and `F` the learning task's Fisher
information. The numbers of a text, as columns of `scores.parquet`, are

    linear     <F delta, g_x>   inner     <delta, g_x>    loss_base
    quadratic  <g_x, F g_x>     learning  <g_L, g_x>      loss_probe
                                norm      <g_x, g_x>

so that another score of them needs no new gradient. A score declares in `SCORES` which it needs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

# The numbers of a text, and those of them that need the Fisher information.
NUMBERS = ("loss_base", "loss_probe", "linear", "quadratic", "inner", "learning", "norm")
FISHER_NUMBERS = frozenset({"linear", "quadratic"})
LOSSES = frozenset({"loss_base", "loss_probe"})

Numbers = Mapping[str, float]  # of one text, by name


@dataclass(frozen=True)
class LearningStats:
    """Numbers of the learning task that are the same for all texts; NaN where not computed."""

    constant: float  # <delta, F delta>
    length: float  # <delta, delta>
    learning: float  # <g_L, g_L>
    alpha: float | None  # step length of the published score; None for `auto`


@dataclass(frozen=True)
class Score:
    """A forgetting score: its formula, what it needs, and what it means."""

    function: Callable[[Numbers, LearningStats], float]
    needs: frozenset[str]  # names of the numbers that `function` reads
    meaning: str  # for the report; completes "The confidence says ..."
    direction: str | None = None  # the product whose parts by layer explain it; None: only losses
    uses_alpha: bool = False  # whether `--alpha` changes it

    def __call__(self, text: Numbers, stats: LearningStats) -> float:
        """The score of a text."""
        return self.function(text, stats)

    @property
    def needs_gradient(self) -> bool:
        """Whether it needs gradients of the texts, and not only their losses."""
        return not self.needs <= LOSSES

    @property
    def needs_fisher(self) -> bool:
        """Whether it needs the Fisher information of the learning stats."""
        return bool(self.needs & FISHER_NUMBERS)


def fisher_distance(text: Numbers, stats: LearningStats) -> float:
    """The published forgetting confidence (arXiv 2505.19715), with the square expanded.

        FC(x) = 1/2 <d, F d>,  d = theta_base - alpha g_x - theta_L*
              = 1/2 (constant - 2 alpha linear + alpha^2 quadratic)

    With `alpha = None` the step on every text is as long as the probe's update, both measured by
    the learning task's Fisher information: `alpha^2 quadratic = constant`. Then

        FC(x) = constant (1 - linear / sqrt(constant quadratic))

    depends on the direction of `g_x` alone, and ranks as `fisher_cosine`.
    """
    if stats.alpha is None:
        return stats.constant * (1 + fisher_cosine(text, stats))
    alpha = stats.alpha
    return 0.5 * (stats.constant - 2 * alpha * text["linear"] + alpha**2 * text["quadratic"])


def linear(text: Numbers, stats: LearningStats) -> float:
    """The published score for a small alpha: `-<F delta, g_x>`."""
    return -text["linear"]


def gradient(text: Numbers, stats: LearningStats) -> float:
    """How directly a step of ascent on the text lowers the learning loss: `-cos(g_L, g_x)`.

    A step of ascent of length `s` changes the learning loss by `s <g_L, g_x> / |g_x|`, to first
    order. During training both gradients are taken at the current weights.
    """
    return -_ratio(text["learning"], stats.learning * text["norm"])


def cosine(text: Numbers, stats: LearningStats) -> float:
    """Cosine with the whole update that learning makes: `-cos(delta, g_x)`."""
    return -_ratio(text["inner"], stats.length * text["norm"])


def fisher_cosine(text: Numbers, stats: LearningStats) -> float:
    """The same cosine, with lengths and angles measured by the Fisher information."""
    return -_ratio(text["linear"], stats.constant * text["quadratic"])


def interference(text: Numbers, stats: LearningStats) -> float:
    """How much learning raised the loss of the text, nats per token: `loss_probe - loss_base`."""
    return text["loss_probe"] - text["loss_base"]


def _ratio(product: float, squares: float) -> float:
    return 0.0 if squares <= 0 else product / math.sqrt(squares)  # undefined stays undefined


SCORES: dict[str, Score] = {
    "fisher_distance": Score(
        fisher_distance,
        frozenset({"linear", "quadratic"}),
        "how far a step on a text leads away from the model fine-tuned on the learning task, "
        "weighted by the Fisher information of that task",
        direction="linear",
        uses_alpha=True,
    ),
    "linear": Score(
        linear,
        frozenset({"linear"}),
        "how far a step of ascent on a text leads in the direction of fine-tuning, weighted by the "
        "Fisher information of the learning task",
        direction="linear",
    ),
    "gradient": Score(
        gradient,
        frozenset({"learning", "norm"}),
        "how directly a step of ascent on a text lowers the loss of the learning task: the cosine "
        "with the learning gradient, from -1 to 1",
        direction="learning",
    ),
    "cosine": Score(
        cosine,
        frozenset({"inner", "norm"}),
        "how directly a step of ascent on a text leads in the direction of fine-tuning: the cosine "
        "of the two, from -1 to 1",
        direction="inner",
    ),
    "fisher_cosine": Score(
        fisher_cosine,
        frozenset({"linear", "quadratic"}),
        "how directly a step of ascent on a text leads in the direction of fine-tuning: their "
        "cosine, weighted by the Fisher information of the learning task",
        direction="linear",
    ),
    "interference": Score(
        interference,
        frozenset({"loss_base", "loss_probe"}),
        "how much a text's loss rose in plain fine-tuning, in nats per token",
    ),
}
DEFAULT_SCORE = "gradient"

K = TypeVar("K", int, str)


def top_fraction(ids: Sequence[K], confidence: Sequence[float], fraction: float) -> set[K]:
    """The ids of the most confident texts, at least one; ties are broken by id.

    Args:
        ids: the ids of all texts; can be ordered.
        confidence: in the same order; higher is forgotten first.
        fraction: in (0, 1].
    """
    return {ids[i] for i in ranked(ids, confidence)[: top_count(fraction, len(ids))]}


def ranked(ids: Sequence[K], confidence: Sequence[float]) -> list[int]:
    """Indices of texts, most confident first; ties are broken by id."""
    return sorted(range(len(ids)), key=lambda i: (-confidence[i], ids[i]))


def top_count(fraction: float, count: int) -> int:
    """Number of texts in this fraction of `count`, at least one."""
    return max(1, round(fraction * count))
