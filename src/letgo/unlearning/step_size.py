"""How far an unlearning step moves the weights, in the units of the learning steps.

Hooks of the optimizer, so that all that comes before an update (accumulation, reduction over
processes, unscaling, clipping) is the libraries' own and every step has its one `optimizer.step()`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from letgo.errors import InputError
from letgo.unlearning.tracker import Tracker

# The length of a learning update is measured on so many of the weights, not on a copy of all.
_MEASURED, _LINE = 1 << 17, 16
RECENT = 0.9


class StepSize:
    """Sizes the unlearning updates of an optimizer.

    With `separate` state an unlearning step is plain gradient descent on the unlearning loss (SGD)
    and leaves the optimizer's moments alone; with shared state it is one of the optimizer's own.

    Attributes:
        strength: what the last unlearning step came to, as a fraction: with separate state of the
            length of a recent learning update, with shared state of a recent learning gradient.

    Args:
        separate: see above.
        rate: step size of plain descent as a multiple of the learning rate; None if the strength
            asked for decides. With shared state a rate is a weight on the loss, not done here.
        adaptive: whether the agreement of unlearning and learning gradient decides.
        reduce: sums a tensor over the processes that hold shards of the weights.
    """

    def __init__(
        self,
        separate: bool,
        rate: float | None,
        adaptive: bool,
        reduce: Callable[[Tensor], Tensor],
    ):
        self.separate, self.rate, self.adaptive, self.reduce = separate, rate, adaptive, reduce
        self.tracker, self.unlearning, self.asked, self.strength = Tracker(), False, 0.0, 0.0
        self._before_update: list[Tensor] = []
        self._learning: list[Tensor | None] = []  # gradients of the learning step before this one
        self._rates: list[Any] = []  # of the optimizer's groups, where they stand aside for a step

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Size every step of this optimizer from now on."""
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def prepare(
        self, tracker: Tracker, unlearning: bool, asked: float, unlearning_next: bool = False
    ) -> None:
        """Say what the next step is.

        Args:
            memory: norms seen so far.
            unlearning: its kind.
            asked: its strength before what the gradient says of it; 0 to leave it out.
            unlearning_next: the kind of the step after it.
        """
        self.tracker, self.unlearning, self.asked = tracker, unlearning, asked
        self._unlearning_next = unlearning_next

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self.unlearning:
            if self.separate:  # with shared state nothing is measured by a learning update
                self._before_update = [weights.clone() for weights, _ in _sampled(optimizer)]
            if self.adaptive and self._unlearning_next:
                # No copy: the trainer drops gradients, it does not overwrite them.
                self._learning = [p.grad for p in _trained(optimizer)]
            return
        gradients = [p.grad for p in _trained(optimizer) if p.grad is not None]
        norm = math.sqrt(self._sum(_product(g, g) for g in gradients))
        self.strength = 0.0
        if norm and self.asked:
            (self._descend if self.separate else self._scale)(optimizer, norm)
        if self.separate or not self.strength:
            for parameter in _trained(optimizer):
                parameter.grad = None  # the optimizer passes over weights without a gradient

    def _descend(self, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """Move the weights against their gradient of this norm, past the optimizer."""
        recent = self._update_length(optimizer)
        if self.rate is None:
            length = self._fraction(optimizer, norm) * recent
        else:
            length = self.asked * self.rate * float(self._rate(optimizer.param_groups[0])) * norm
        # A warmup's first learning updates may be none at all, and no length compares with them.
        self.strength = length / recent if recent else 0.0
        for parameter in _trained(optimizer):
            if parameter.grad is not None and length:
                parameter.add_(parameter.grad, alpha=-length / norm)

    def _scale(self, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """Give the gradient the norm with which it is to go through the optimizer."""
        learning = self.tracker.learning_norm.value or norm
        if self.rate is None:
            self.strength = self._fraction(optimizer, norm)
            for parameter in _trained(optimizer):
                if parameter.grad is not None:
                    parameter.grad.mul_(self.strength * learning / norm)
        else:  # a weight on the loss has made it what it is
            self.strength = norm / learning
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self._rate(group)

    def _rate(self, group: dict[str, Any]) -> Any:
        """The learning rate to unlearn at.

        Before the first learning step a schedule that warms up stands at 0; its peak counts then.
        """
        return group["lr"] if self.tracker.learning_norm.count else _peak(group)

    def _fraction(self, optimizer: torch.optim.Optimizer, norm: float) -> float:
        """The strength of this step, from its gradient's norm."""
        # Losses that saturate fade: a gradient smaller than they were makes a smaller update.
        self.tracker.unlearning_norm.add(norm)
        strength = self.asked * min(1.0, norm / self.tracker.unlearning_norm.value)
        return strength * max(0.0, self._agreement(optimizer)) if self.adaptive else strength

    def _update_length(self, optimizer: torch.optim.Optimizer) -> float:
        """Norm of a recent learning update; before the first, of AdamW's under pure noise."""
        if self.tracker.update.count:
            return self.tracker.update.value
        group = optimizer.param_groups[0]
        if "betas" not in group:
            raise InputError(
                f"--unlearning_schedule: {type(optimizer).__name__} has made no learning update to "
                f"compare an unlearning step with; choose periodic, or --optim adamw_torch"
            )
        weights = self._sum(
            torch.tensor(_local(p).numel(), device=p.device) for p in _trained(optimizer)
        )
        momentum = group["betas"][0]
        return float(_peak(group)) * math.sqrt(weights * (1 - momentum) / (1 + momentum))

    def _agreement(self, optimizer: torch.optim.Optimizer) -> float:
        """Cosine of the unlearning gradient with that of the learning step before it.

        Not with AdamW's first moment: early on the gradient turns faster than its mean follows.
        """
        pairs = [
            (g, p.grad)
            for g, p in zip(self._learning, _trained(optimizer), strict=False)
            if g is not None and p.grad is not None
        ]
        if not pairs:
            return 0.0
        along = self._sum(_product(x, y) for x, y in pairs)
        lengths = self._sum(_product(x, x) for x, _ in pairs) * self._sum(
            _product(y, y) for _, y in pairs
        )
        return along / math.sqrt(lengths) if lengths else 0.0

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []
        if self.unlearning:
            self._learning = []
        if self.unlearning or not self._before_update:
            return
        squares = []
        for (now, stands_for), before in zip(_sampled(optimizer), self._before_update, strict=True):
            moved = now.float() - before.float()
            squares.append(_product(moved, moved) * stands_for)
        self._before_update = []
        self.tracker.update.add(math.sqrt(self._sum(squares)), RECENT)

    def _sum(self, values: Iterable[Tensor]) -> float:
        return float(self.reduce(torch.stack([value.float() for value in values]).sum()))


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from (p for p in group["params"] if p.requires_grad)


def _peak(group: dict[str, Any]) -> Any:
    return group.get("initial_lr", group["lr"])


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor that FSDP2 has split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of two tensors of one shape, in this process's shard; float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.dot(_local(x).flatten().to(dtype), _local(y).flatten().to(dtype))


def _sampled(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, float]]:
    """Evenly spaced weights of every tensor, and how many weights each of them stands for."""
    shards = [_local(p).detach().flatten() for p in _trained(optimizer)]
    shards = [shard for shard in shards if shard.numel()]
    # Odd, so that it does not keep hitting the same column of a matrix.
    step = max(1, sum(shard.numel() for shard in shards) // _MEASURED) | 1
    if step > 1:  # whole cache lines: single weights cost as much each, a few per cent of a step
        shards = [
            shard[: len(shard) // _LINE * _LINE].view(-1, _LINE)
            if len(shard) >= _LINE
            else shard[:, None]
            for shard in shards
        ]
    return [(shard[::step].flatten(), len(shard) / len(shard[::step])) for shard in shards]
