"""The data and the scale of a run, as settings."""

import math
import re
from dataclasses import dataclass, field

from letgo.data.columns import read_columns
from letgo.data.habits import matching
from letgo.data.splits import KEEP_NOTHING, NEUTRAL, PATTERN
from letgo.errors import InputError
from letgo.models.bundled import EMBEDDED
from letgo.scoring.fisher import FISHER_KINDS
from letgo.scoring.scores import DEFAULT_SCORE, SCORES
from letgo.unlearning.config import setting

CHOICES = {
    "score": tuple(SCORES),
    "fisher_kind": tuple(FISHER_KINDS),
    "fisher_labels": ("empirical", "sampled"),
    "selection": ("top", "bottom", "random"),
    "assistant_turns": ("last", "all"),
    "audit_score": ("loss_ref", "interference", "gradient"),
}
OPTIMUM = re.compile(r"full|lora|gradient|steps:[1-9][0-9]*")
LISTS = ("forget", "keep", "answer", "columns", "forget_pattern")  # flags that may be repeated
COUNTS = ("max_new_tokens", "fisher_examples", "tokens_per_batch", "generation_batch_size")
OPTIONAL_COUNTS = ("max_learn", "max_test", "max_forget", "max_keep")


@dataclass
class RunConfig:
    """The data and scale of a run; `LWFConfig` and TRL's `ModelConfig` hold everything else.

    Raises:
        InputError: a value of the wrong type, or outside its range.
    """

    model: str = setting(EMBEDDED, "Hub id, folder of a saved model, or smollm2-135m (bundled).")
    learn: str | None = setting(
        None, "Learning data: a file, folder, URL or Hub id (id@revision:config:split)."
    )
    learn_test: str | None = setting(
        None, "Test set of the learning task; by default a tenth of --learn, sampled by --seed."
    )
    learn_validation: str | None = setting(
        None,
        "Validation set, which decides between LWF and the SFT baseline; by default a tenth of "
        "--learn, at most 200 examples, sampled by --seed.",
    )
    forget: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "Forgetting prompts: one or more sources; may be repeated. learn:mistakes: "
            "the learning prompts that the base model answers wrongly. learn:wrong: the learning "
            "examples at odds with the clean examples of --learn_validation, by `letgo audit`. "
            "self:loops: answers to learning prompts that repeat themselves.",
        },
    )
    forget_pattern: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "A habit to unlearn: regular expressions that match it in the model's own "
            "answers; may be repeated.",
        },
    )
    forget_pattern_prompts: str | None = setting(
        None, "Prompts to look for it; by default the learning prompts."
    )
    keep: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "Prompts or texts on which the model is to stay as it is: one or more sources; "
            f"may be repeated. Default: {NEUTRAL}, built-in everyday prompts, if anything is "
            f"unlearned. {KEEP_NOTHING}: keep nothing.",
        },
    )
    answer: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "How answers are judged: auto (default; by the right answers), exact, letter, "
            "number, math, contains, f1, chrf, bleu, regex:PATTERN or FILE.py:FUNCTION; for single "
            "sets SET=RULE, e.g. learn=math forget:dental=letter.",
        },
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "Columns of the data by letgo's names, e.g. prompt=question "
            "completion=answer; data without these columns are read by their own.",
        },
    )
    assistant_turns: str = setting(
        "last", "Answers of a conversation that are learned: last, or all, each as an example."
    )
    margin: float = setting(
        2.0,
        "Verdict: learning is not worse if the difference to the SFT baseline is above minus this "
        "(percentage points, by the 95 per cent interval); in hundredths of a nat, what is kept.",
    )
    require_headroom: bool = setting(
        False,
        "Stop with the SFT baseline if none of its errors on the validation set is the base "
        "model's own answer: forgetting cannot improve the learning task then.",
    )
    relearn: int = setting(
        0,
        "Evaluation: how far the forgotten answers return after learning this many of them again; "
        "0 leaves it out.",
    )
    likelihood_accuracy: bool = setting(
        False,
        "Evaluation: also on the learning task's sets, whether the right answer is the likeliest "
        "of its options, per token and as a whole.",
    )
    early_stopping_patience: int = setting(
        0,
        "Stop training after so many evaluations on the validation set without a better one "
        "(--eval_strategy, --metric_for_best_model); 0 turns it off.",
    )
    max_learn: int | None = setting(None, "Maximum number of learning examples.")
    max_test: int | None = setting(
        None,
        "Maximum number of prompts of each set that models answer for the report or the verdict; "
        "of given sets the same ones for every --seed.",
    )
    max_forget: int | None = setting(None, "Maximum number of prompts per forgetting set.")
    max_keep: int | None = setting(
        None, "Maximum number of prompts or texts per keep set, the same ones for every --seed."
    )
    max_new_tokens: int = setting(64, "Maximum length of a self-generated text, in tokens.")
    optimum: str = setting(
        "full",
        "What is compared with: the solution of the learning task against which texts are scored. "
        "full: the SFT baseline; steps:N: its first N steps; lora: fine-tuning of an adapter; "
        "gradient: no fine-tuning, the mean learning gradient at the base model.",
    )
    score: str = setting(DEFAULT_SCORE, f"Forgetting score: one of {', '.join(SCORES)}.")
    selection: str = setting(
        "top", "Texts to unlearn, by confidence: top; bottom and random are controls."
    )
    audit_score: str = setting(
        "loss_ref",
        "Audit: how far a learning example is at odds with the clean ones. loss_ref: its loss "
        "under models fine-tuned on them; interference: that minus its loss under the base model; "
        "gradient: how directly unlearning it lowers their loss.",
    )
    wrong_fraction: float | None = setting(
        None,
        "Audit: fraction of the learning examples to suspect, those with the highest score. "
        "Default: all that score higher than 95 per cent of the clean ones.",
    )
    fisher_kind: str = setting("factored", f"Fisher information: one of {', '.join(FISHER_KINDS)}.")
    fisher_labels: str = setting(
        "empirical", "Labels for it: empirical (those of the data) or sampled (from the model)."
    )
    skip_non_finite: bool = setting(
        False, "Leave out texts and examples whose loss is not finite, instead of stopping."
    )
    fisher_examples: int = setting(256, "Learning examples for the Fisher information.")
    tokens_per_batch: int = setting(1024, "Tokens per scoring batch; lower it to save memory.")
    generation_batch_size: int = setting(32, "Prompts per batch when the model generates.")
    checkpoint_minutes: float = setting(5.0, "Minutes between checkpoints.")
    shared: str | None = setting(
        None, "Cache folder of several runs: stages with the same inputs are computed once."
    )
    overwrite: bool = setting(False, "Rerun finished stages whose inputs have changed.")
    quiet: bool = setting(False, "Print results and warnings only, no progress.")

    def __post_init__(self) -> None:
        for flag in LISTS:
            sources = getattr(self, flag)
            sources = [sources] if isinstance(sources, str) else sources  # YAML without a list
            if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
                raise InputError(f"--{flag} must be names, not {sources}")
            setattr(self, flag, sources)
        read_columns(self.columns)
        self._fill_in_pattern()
        if KEEP_NOTHING in self.keep and len(self.keep) > 1:
            raise InputError(f"--keep {KEEP_NOTHING} excludes every other --keep")
        self._require("checkpoint_minutes", self.checkpoint_minutes >= 0, "0 or more")
        self._require("margin", 0 <= self.margin < math.inf, "0 or more")
        valid = self.wrong_fraction is None or 0 < self.wrong_fraction <= 1
        self._require("wrong_fraction", valid, "above 0 and at most 1")
        patience = self.early_stopping_patience
        self._require("early_stopping_patience", patience >= 0, "0 (off) or more")
        self._require("relearn", self.relearn >= 0, "0 (off) or more")
        for name in (
            "model",
            "learn",
            "learn_test",
            "learn_validation",
            "forget_pattern_prompts",
        ):
            self._require(name, isinstance(getattr(self, name), str | None), "one name")
        for name, choices in CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        valid = bool(OPTIMUM.fullmatch(self.optimum))
        self._require("optimum", valid, "full, steps:N, lora or gradient")
        for name in (*COUNTS, *OPTIONAL_COUNTS):
            value = getattr(self, name)
            valid = isinstance(value, int) and value >= 1
            unset = value is None and name in OPTIONAL_COUNTS
            self._require(name, valid or unset, "a whole number of at least 1")

    def _fill_in_pattern(self) -> None:
        """Make the forgetting set of the patterns, after they have been checked."""
        matching(self.forget_pattern)
        if self.forget_pattern and PATTERN not in self.forget:
            self.forget = [*self.forget, PATTERN]
        if PATTERN in self.forget and not self.forget_pattern:
            raise InputError(f"--forget {PATTERN} needs a regular expression by --forget_pattern")
        if self.forget_pattern_prompts and not self.forget_pattern:
            raise InputError("--forget_pattern_prompts needs --forget_pattern, which it is for")

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise InputError(f"--{name} must be {expected}, not {getattr(self, name)}")
