"""The settings of Learning With Forgetting, in addition to TRL's."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

from letgo.errors import InputError
from letgo.models.loading import bf16_is_fast
from letgo.scoring.scores import SCORES
from letgo.unlearning.losses import DEFAULT_LOSS, LOSSES
from letgo.unlearning.regularizers import REGULARIZERS
from letgo.unlearning.schedule import SCHEDULES

TOKENS = ("all", "conflict", "span")  # which tokens of a text are unlearned


def setting(default: object, help: str) -> Any:
    """A dataclass field that is a flag with a help text."""
    return field(default=default, metadata={"help": help})


_LOSSES = "; ".join(f"{name}: {loss.summary}" for name, loss in LOSSES.items())
_BETAS = ", ".join(f"{name} {loss.beta:g}" for name, loss in LOSSES.items() if loss.beta)
_ALPHA = " or ".join(name for name, score in SCORES.items() if score.uses_alpha)


@dataclass
class LWFConfig(SFTConfig):
    """TRL's `SFTConfig` and the settings of Learning With Forgetting (arXiv 2505.19715).

    Without an accelerator `use_cpu` is set, and `bf16` is on only if the CPU supports it natively.

    Raises:
        InputError: a value is outside its range, or two settings exclude each other.
    """

    unlearning_interval: int = setting(
        10, "N_u: one unlearning step for every N_u learning steps; 0 turns unlearning off."
    )
    unlearning_schedule: str = setting(
        "periodic",
        f"When to unlearn: one of {', '.join(SCHEDULES)}. early: before the first learning step; "
        f"random: at random steps; all others: after every N_u learning steps, with a strength "
        f"that rises (warmup), falls (decay) or follows the gradients (adaptive).",
    )
    unlearning_loss: str = setting(DEFAULT_LOSS, f"Loss that unlearning steps minimize. {_LOSSES}.")
    unlearning_beta: float | None = setting(
        None, f"Parameter beta of the losses that have one. Default: {_BETAS}."
    )
    unlearning_strength: float | None = setting(
        None,
        "Length of an unlearning update as a fraction of recent learning updates; with "
        "--unlearning_state shared, of its gradient as a fraction of recent learning gradients. "
        "Default: 0.1; 1 with adaptive, which multiplies it by the agreement of the gradients.",
    )
    unlearning_rate: float | None = setting(
        None, "Learning rate of gradient ascent, instead of a strength (the paper's setting)."
    )
    unlearning_state: str | None = setting(
        None,
        "separate: unlearning steps are plain gradient descent and do not change the optimizer's "
        "moments; shared: they go through the optimizer. Default: shared with --unlearning_rate, "
        "else separate.",
    )
    unlearning_ceiling: float = setting(
        4.0, "Guard: texts with at least this NLL (nats per token) are not unlearned further."
    )
    unlearning_max_grad_norm: float = setting(
        1.0, "Guard: gradient norm to which an unlearning step is clipped."
    )
    unlearning_max_rise: float = setting(
        0.5,
        "Guard: no unlearning while the smoothed learning loss is more than this above its lowest "
        "value (nats per token).",
    )
    keep_share: float = setting(
        0.25, "Keep steps for each learning step, on the texts to keep; 0 turns them off."
    )
    keep_loss: str = setting(
        "kl",
        "Loss of keep steps. kl: the divergence from the base model's predictions; nll: the NLL of "
        "the texts.",
    )
    keep_top_k: int = setting(
        32, "Likeliest tokens of the base model that are stored for kl; all others count as one."
    )
    forget_fraction: float = setting(
        0.5, "Fraction of the texts to unlearn, those with the highest confidence."
    )
    self_knowledge: str | None = setting(
        None,
        "Whose answers to the forgetting prompts are unlearned. base: the base model's, written "
        "before training; current: those of the model as it is at each re-scoring, if they show "
        "the habit, or learning has made them less likely than they were under the base model. "
        "Default: current for habits, base for others.",
    )
    forget_tokens: str | None = setting(
        None,
        "Which tokens of a text are unlearned. all; conflict: those that learning has made less "
        "likely than they were under the base model; span: those that a habit marks. Default: "
        "span for the answers of a habit, all for others.",
    )
    rescore_interval: int | None = setting(
        None,
        "Learning steps between re-scorings, which choose the texts again by their scores at the "
        "current weights; 0 turns them off. Default: chosen so that they cost about a tenth of the "
        "training; off with --unlearning_rate, with losses that use learning examples, and if the "
        "score cannot be computed during training.",
    )
    rescore_texts: int = setting(
        64, "Texts sampled at each re-scoring; as many learning examples are used."
    )
    forget_max_overlap: float = setting(
        0.1, "Largest allowed fraction of the texts whose prompt is also a learning prompt."
    )
    alpha: str | None = setting(
        None,
        f"Step size in the score {_ALPHA}: a number, or auto (a step as long as the probe's "
        f"update, for every text). Default: --learning_rate.",
    )
    regularizer: str = setting(
        "none",
        f"Penalty on the learning steps, a baseline: one of {', '.join(['none', *REGULARIZERS])}.",
    )
    regularizer_weight: float | None = setting(
        None, "Weight of that penalty. Default: the value of its paper."
    )

    bf16: bool | None = setting(
        None, "Mixed precision in bfloat16. Default: on if the hardware supports it natively."
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

    def asks(self, habit: str) -> bool:
        """Whether the model in training is asked for texts of this habit; empty for none."""
        if self.self_knowledge is None:
            return bool(habit) and self.rescore_interval != 0
        return self.self_knowledge == "current"

    def _fill_in(self) -> None:
        """Set the defaults that depend on other settings."""
        if self.alpha != "auto":
            with suppress(TypeError, ValueError):  # rejected by _check
                self.alpha = str(float(self.learning_rate if self.alpha is None else self.alpha))
        if self.unlearning_strength is None and self.unlearning_rate is None:
            self.unlearning_strength = 1.0 if self.unlearning_schedule == "adaptive" else 0.1
        if self.unlearning_state is None:
            self.unlearning_state = "separate" if self.unlearning_rate is None else "shared"
        loss = LOSSES.get(self.unlearning_loss)  # an unknown one is rejected by _check
        rated = self.unlearning_rate is not None and self.self_knowledge != "current"
        if rated or (loss and loss.mixes_learning):
            self.rescore_interval = self.rescore_interval or 0
        if self.unlearning_beta is None and loss:
            self.unlearning_beta = loss.beta

    def _check(self) -> None:
        if self.unlearning_strength is not None and self.unlearning_rate is not None:
            raise InputError("--unlearning_strength and --unlearning_rate exclude each other")
        for name, choices in (
            ("unlearning_schedule", SCHEDULES),
            ("unlearning_loss", tuple(LOSSES)),
            ("unlearning_state", ("separate", "shared")),
            ("self_knowledge", (None, "base", "current")),
            ("forget_tokens", (None, *TOKENS)),
            ("keep_loss", ("kl", "nll")),
            ("regularizer", ("none", *REGULARIZERS)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"--{name} must be one of {', '.join(filter(None, choices))}, not "
                    f"{getattr(self, name)}"
                )
        if self.unlearning_schedule == "adaptive" and (
            self.unlearning_rate is not None or self.unlearning_state == "shared"
        ):
            raise InputError(
                "--unlearning_schedule adaptive sets the strength by the learning gradient; leave "
                "out --unlearning_rate and --unlearning_state shared"
            )
        loss = self.unlearning_loss
        if self.rescore_interval and LOSSES[loss].mixes_learning:
            raise InputError(f"--rescore_interval does not work with --unlearning_loss {loss}")
        if self.self_knowledge == "current" and self.rescore_interval == 0:
            why = f"--unlearning_loss {loss}" if LOSSES[loss].mixes_learning else "it is 0"
            raise InputError(
                f"--self_knowledge current asks the model at each --rescore_interval, but {why}; "
                f"leave that out, or use --self_knowledge base"
            )
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
            ("keep_share", self.keep_share >= 0, "0 (off) or more"),
            ("keep_top_k", self.keep_top_k > 0, "above 0"),
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
