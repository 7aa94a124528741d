"""The settings of Learning With Forgetting, beside TRL's."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

from letgo.errors import InputError
from letgo.models.loading import bf16_is_fast
from letgo.unlearning.losses import BETAS, LOSSES
from letgo.unlearning.regularizers import REGULARIZERS
from letgo.unlearning.schedule import SCHEDULES


def setting(default: Any, help: str) -> Any:
    """A dataclass field that is a flag with a help text."""
    return field(default=default, metadata={"help": help})


@dataclass
class LWFConfig(SFTConfig):
    """TRL's `SFTConfig` and the settings of Learning With Forgetting (arXiv 2505.19715).

    Without an accelerator it sets `use_cpu`, and `bf16` only where the processor computes in it.

    Raises:
        InputError: a value outside its range, or two that do not go together.
    """

    unlearning_interval: int = setting(
        10, "N_u: one unlearning step for every N_u learning steps; 0 turns unlearning off."
    )
    unlearning_schedule: str = setting(
        "periodic",
        f"When to unlearn, and how strongly: one of {', '.join(SCHEDULES)}; the others but early "
        f"and random are periodic with a strength that rises, falls, or follows the gradients.",
    )
    unlearning_loss: str = setting("bounded_ga", f"One of {', '.join(LOSSES)}.")
    unlearning_beta: float | None = setting(
        None, f"Of the losses that have one; by default {BETAS}."
    )
    unlearning_strength: float | None = setting(
        None,
        "Length of an unlearning update as a fraction of recent learning updates'; 0.1 if neither "
        "it nor --unlearning_rate is given. With adaptive, the most it may be in the direction of "
        "learning, by default 1. With --unlearning_state shared, norm of the gradient as a "
        "fraction of recent learning gradients': how far that moves is up to the optimizer.",
    )
    unlearning_rate: float | None = setting(
        None, "Learning rate of gradient ascent, instead of a strength (the paper's setting)."
    )
    unlearning_state: str | None = setting(
        None,
        "separate: unlearning steps are plain descent and leave the optimizer's moments alone; "
        "shared: they go through the optimizer. By default shared if --unlearning_rate is given.",
    )
    unlearning_ceiling: float = setting(
        4.0, "Guard: texts whose NLL (nats per token) has reached it are not pushed further."
    )
    unlearning_max_grad_norm: float = setting(
        1.0, "Guard: gradient norm to which an unlearning step is clipped."
    )
    unlearning_max_rise: float = setting(
        0.5, "Guard: no unlearning while the smoothed learning loss is so far above its low (nats)."
    )
    forget_fraction: float = setting(0.5, "Share of the texts, most confident first, to unlearn.")
    rescore_interval: int | None = setting(
        None,
        "Before the first unlearning step, and after every so many learning steps, the texts are "
        "scored anew, against the learning gradient as it is then, and chosen anew (sooner where "
        "none helped); 0: never. By default as often as costs about a tenth of the run; never with "
        "--unlearning_rate, with graddiff, or where it cannot be.",
    )
    rescore_texts: int = setting(
        64, "How many texts, drawn anew, are scored then, by as many learning examples."
    )
    forget_max_overlap: float = setting(
        0.1, "Share of the texts to unlearn whose prompt may be a learning prompt."
    )
    alpha: str | None = setting(
        None,
        "Step size in the score fisher_distance: a number, or auto (as long as the probe's way, "
        "for every text); --learning_rate if not given.",
    )
    regularizer: str = setting(
        "none", f"A baseline on the learning steps: one of {', '.join(['none', *REGULARIZERS])}."
    )
    regularizer_weight: float | None = setting(
        None, "What its penalty is multiplied by; its paper's value if not given."
    )

    bf16: bool | None = setting(
        None, "Mixed precision in bfloat16; on where the hardware computes in it."
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None and not self.fp16:
            self.bf16 = bf16_is_fast()
        super().__post_init__()
        self._fill_in()
        self._check()

    @property
    def unlearning_weight(self) -> float | None:
        """`unlearning_rate` as a multiple of the learning rate; None if a strength is given."""
        return None if self.unlearning_rate is None else self.unlearning_rate / self.learning_rate

    def _fill_in(self) -> None:
        """Give what depends on other settings its value."""
        if self.alpha != "auto":
            with suppress(TypeError, ValueError):  # else refused below
                self.alpha = str(float(self.learning_rate if self.alpha is None else self.alpha))
        if self.unlearning_strength is None and self.unlearning_rate is None:
            self.unlearning_strength = 1.0 if self.unlearning_schedule == "adaptive" else 0.1
        if self.unlearning_state is None:
            self.unlearning_state = "separate" if self.unlearning_rate is None else "shared"
        if self.unlearning_rate is not None or self.unlearning_loss == "graddiff":
            self.rescore_interval = self.rescore_interval or 0
        if self.unlearning_beta is None:
            self.unlearning_beta = BETAS.get(self.unlearning_loss)

    def _check(self) -> None:
        if self.unlearning_strength is not None and self.unlearning_rate is not None:
            raise InputError("--unlearning_strength and --unlearning_rate exclude each other")
        for name, choices in (
            ("unlearning_schedule", SCHEDULES),
            ("unlearning_loss", tuple(LOSSES)),
            ("unlearning_state", ("separate", "shared")),
            ("regularizer", ("none", *REGULARIZERS)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"--{name} must be one of {', '.join(choices)}, not {getattr(self, name)}"
                )
        if self.unlearning_schedule == "adaptive" and (
            self.unlearning_rate is not None or self.unlearning_state == "shared"
        ):
            raise InputError(
                "--unlearning_schedule adaptive takes its strength from the learning gradient: "
                "leave out --unlearning_rate and --unlearning_state shared"
            )
        if self.rescore_interval and self.unlearning_loss == "graddiff":
            raise InputError("--rescore_interval does not work with --unlearning_loss graddiff")
        beta = self.unlearning_beta or 0
        for name, valid, meaning in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps > 0, "above 0"),
            ("seed", self.seed >= 0, "0 or more"),
            ("alpha", _is_alpha(self.alpha), "auto, or a number of 0 or more"),
            ("unlearning_interval", self.unlearning_interval >= 0, "0 (off) or more"),
            ("rescore_interval", (self.rescore_interval or 0) >= 0, "0 (never) or more"),
            ("rescore_texts", self.rescore_texts > 0, "above 0"),
            ("forget_fraction", 0 < self.forget_fraction <= 1, "above 0 and at most 1"),
            ("forget_max_overlap", 0 <= self.forget_max_overlap <= 1, "from 0 to 1"),
            ("num_train_epochs", self.num_train_epochs > 0 or self.max_steps > 0, "above 0"),
            ("unlearning_rate", (self.unlearning_rate or 0) >= 0, "0 or more"),
            ("unlearning_strength", (self.unlearning_strength or 0) >= 0, "0 or more"),
            ("unlearning_beta", self.unlearning_beta is None or beta > 0, "above 0"),
            ("unlearning_ceiling", self.unlearning_ceiling > 0, "above 0"),
            ("unlearning_max_grad_norm", self.unlearning_max_grad_norm > 0, "above 0"),
            ("unlearning_max_rise", self.unlearning_max_rise > 0, "above 0"),
            ("regularizer_weight", (self.regularizer_weight or 0) >= 0, "0 or more"),
            ("per_device_train_batch_size", self.per_device_train_batch_size > 0, "above 0"),
        ):
            if not valid:
                raise InputError(f"--{name} must be {meaning}, not {getattr(self, name)}")


def _is_alpha(value: str | None) -> bool:
    try:
        return value == "auto" or 0 <= float(value or "") < math.inf
    except ValueError:
        return False
