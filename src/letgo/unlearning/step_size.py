"""The length of unlearning updates, relative to the learning updates.

It is set in hooks of the optimizer. Everything before an update (accumulation, reduction over
processes, unscaling, clipping) remains the libraries' work, and every step calls
`optimizer.step()` once.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from letgo.errors import InputError
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.schedule import Plan, Step
from letgo.unlearning.tracker import Tracker

# The length of a learning update is measured on this many weights, to avoid a copy of them all.
_MEASURED = 1 << 17
_LINE = 16  # neighbouring weights taken together: a cache line of float32
DECAY = 0.9  # of the running means of norms


class StepSize:
    """Sets the length of an optimizer's unlearning updates.

    With separate state an unlearning step is plain gradient descent (SGD) on the unlearning loss
    and does not change the optimizer's moments; with shared state it goes through the optimizer.

    Attributes:
        strength: of the last unlearning step. With separate state the length of its update as a
            fraction of recent learning updates; with shared state the norm of its gradient as a
            fraction of recent learning gradients.

    Args:
        args: the settings of the training. With shared state `unlearning_rate` is a weight on the
            loss and is not applied here.
        reduce: sums a tensor over the processes that hold shards of the weights.
    """

    def __init__(self, args: LWFConfig, reduce: Callable[[Tensor], Tensor]):
        self.separate, self.reduce = args.unlearning_state == "separate", reduce
        self.rate = args.unlearning_weight  # as a multiple of the learning rate
        self.adaptive = args.unlearning_schedule == "adaptive"
        self.tracker, self.strength = Tracker(), 0.0
        self.kind = Step.LEARN  # of the next step
        self.requested = 0.0  # strength of the next unlearning step before the gradient reduces it
        self._unlearning_next = False
        self._before_update: list[Tensor] = []
        self._learning: list[Tensor | None] = []  # gradients of the learning step before this one
        self._rates: list[Any] = []  # the groups' learning rates while others replace them

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the hooks to this optimizer."""
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def prepare(self, tracker: Tracker, plan: Plan, step: int, requested: float) -> None:
        """Describe the next step; `requested` is its strength before the gradient reduces it."""
        self.tracker, self.requested = tracker, requested
        self.kind, self._unlearning_next = plan.step(step), plan.is_unlearning(step + 1)

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self.kind == Step.KEEP:
            return
        if self.kind == Step.LEARN:
            if self.separate:  # with shared state the length of updates is not needed
                self._before_update = [weights.clone() for weights, _ in _sampled(optimizer)]
            if self.adaptive and self._unlearning_next:
                # Not copied: the trainer drops gradients and does not overwrite them.
                self._learning = [p.grad for p in _trained(optimizer)]
            return
        gradients = [p.grad for p in _trained(optimizer) if p.grad is not None]
        norm = math.sqrt(self._sum(_product(g, g) for g in gradients))
        self.strength = 0.0
        if norm and self.requested:
            (self._descend if self.separate else self._scale)(optimizer, norm)
        if self.separate or not self.strength:
            for parameter in _trained(optimizer):
                parameter.grad = None  # the optimizer skips weights without a gradient

    def _descend(self, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """Move the weights against their gradient, which has this norm."""
        recent = self._update_length(optimizer)
        if self.rate is None:
            length = self._fraction(optimizer, norm) * recent
        else:
            rate = float(self._rate(optimizer.param_groups[0]))
            length = self.requested * self.rate * rate * norm
        # The first learning updates of a warmup may have length 0.
        self.strength = length / recent if recent else 0.0
        for parameter in _trained(optimizer):
            if parameter.grad is not None and length:
                parameter.add_(parameter.grad, alpha=-length / norm)

    def _scale(self, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """Scale the gradient, which has this norm, for the optimizer."""
        learning = self.tracker.learning_norm.value or norm
        if self.rate is None:
            self.strength = self._fraction(optimizer, norm)
            for parameter in _trained(optimizer):
                if parameter.grad is not None:
                    parameter.grad.mul_(self.strength * learning / norm)
        else:  # the loss is weighted already
            self.strength = norm / learning
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self._rate(group)

    def _rate(self, group: dict[str, Any]) -> Any:
        """The learning rate of an unlearning step.

        Before the first learning step it is the schedule's peak, because a warmup starts at 0.
        """
        return group["lr"] if self.tracker.learning_norm.count else _peak(group)

    def _fraction(self, optimizer: torch.optim.Optimizer, norm: float) -> float:
        """The strength of this step, whose gradient has this norm."""
        # A gradient below the mean norm reduces the strength: losses that saturate fade out.
        self.tracker.unlearning_norm.add(norm)
        strength = self.requested * min(1.0, norm / self.tracker.unlearning_norm.value)
        return strength * max(0.0, self._agreement(optimizer)) if self.adaptive else strength

    def _update_length(self, optimizer: torch.optim.Optimizer) -> float:
        """Norm of recent learning updates; before the first, of AdamW's update for pure noise."""
        if self.tracker.update.count:
            return self.tracker.update.value
        group = optimizer.param_groups[0]
        if "betas" not in group:
            raise InputError(
                f"--unlearning_schedule: before the first learning step of "
                f"{type(optimizer).__name__} the length of its updates is unknown; choose "
                f"periodic, or --optim adamw_torch"
            )
        weights = self._sum(
            torch.tensor(_local(p).numel(), device=p.device) for p in _trained(optimizer)
        )
        momentum = group["betas"][0]
        return float(_peak(group)) * math.sqrt(weights * (1 - momentum) / (1 + momentum))

    def _agreement(self, optimizer: torch.optim.Optimizer) -> float:
        """Cosine of the unlearning gradient with the gradient of the learning step before it.

        Not with AdamW's first moment: early in training the gradient changes faster than its mean.
        """
        pairs = [
            (g, p.grad)
            for g, p in zip(self._learning, _trained(optimizer), strict=False)
            if g is not None and p.grad is not None
        ]
        if not pairs:
            return 0.0
        along = self._sum(_product(x, y) for x, y in pairs)
        lengths = self._sum(_product(x, x) for x, _ in pairs)
        lengths *= self._sum(_product(y, y) for _, y in pairs)
        return along / math.sqrt(lengths) if lengths else 0.0

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []
        if self.kind == Step.UNLEARN:
            self._learning = []
        if self.kind == Step.UNLEARN or not self._before_update:
            return
        squares, sampled = [], _sampled(optimizer)
        for (now, represented), before in zip(sampled, self._before_update, strict=True):
            moved = now.float() - before.float()
            squares.append(_product(moved, moved) * represented)
        self._before_update = []
        self.tracker.update.add(math.sqrt(self._sum(squares)), DECAY)

    def _sum(self, values: Iterable[Tensor]) -> float:
        return float(self.reduce(torch.stack([value.float() for value in values]).sum()))


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from (p for p in group["params"] if p.requires_grad)


def _peak(group: dict[str, Any]) -> Any:
    return group.get("initial_lr", group["lr"])


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor split by FSDP2; other tensors unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of two tensors of one shape on this process's shard, in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.dot(_local(x).flatten().to(dtype), _local(y).flatten().to(dtype))


def _sampled(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, float]]:
    """Evenly spaced weights of every tensor, and how many weights each of them represents."""
    shards = [_local(p).detach().flatten() for p in _trained(optimizer)]
    shards = [shard for shard in shards if shard.numel()]
    # An odd step does not always hit the same columns of a matrix.
    step = max(1, sum(shard.numel() for shard in shards) // _MEASURED) | 1
    if step > 1:  # a whole cache line costs as much as a single weight
        shards = [
            shard[: len(shard) // _LINE * _LINE].view(-1, _LINE)
            if len(shard) >= _LINE
            else shard[:, None]
            for shard in shards
        ]
    return [(shard[::step].flatten(), len(shard) / len(shard[::step])) for shard in shards]
