"""The three outcomes of a run, learned, let go and kept, and the headroom of forgetting."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from letgo.evaluation import statistics as stats
from letgo.evaluation.rules import Rule, is_wrong
from letgo.evaluation.same_answer import same_answer
from letgo.run.folder import Row
from letgo.run.inputs import FORGET_SET, HABIT_SET, KEEP_SET, VALIDATION


class Figure(NamedTuple):
    """A measured quantity: the mean of a column of `answers.parquet` over the prompts of its sets.

    Attributes:
        name: of the figure.
        column: of `answers.parquet`.
        sets: how the names of its sets start.
        is_share: whether each value is true or false.
        is_score: whether each value is a score from 0 to 1.
        is_perplexity: whether the exponential of the mean is meant.
        higher_is_better: which direction is wanted.
    """

    name: str
    column: str
    sets: str | tuple[str, ...]
    is_share: bool = False
    is_score: bool = False
    is_perplexity: bool = False
    higher_is_better: bool = False


def likelihood(sets: str, higher_is_better: bool) -> tuple[Figure, Figure]:
    """Accuracy by the likelihood of options, per token and of the whole answer."""
    columns = {"likelihood_accuracy": "likeliest", "likelihood_accuracy_whole": "likeliest_whole"}
    one, other = (
        Figure(name, column, sets, is_share=True, higher_is_better=higher_is_better)
        for name, column in columns.items()
    )
    return one, other


LEARNED, LET_GO, KEPT = "learned", "let_go", "kept"
LEARN_SET, NEUTRAL_SET = "learn", "neutral"
OLD_ANSWERS = Figure("old_answers", "old_answer", FORGET_SET, is_share=True)
_OF_HABITS = LEARN_SET, HABIT_SET
HABITS = tuple(
    Figure(name, name, _OF_HABITS, is_share=True) for name in ("loops", "pattern", "endless")
)
# Of an outcome the first of these that is measured decides; the others are reported beside it.
DECIDING = {
    LEARNED: ("score", "accuracy"),
    LET_GO: ("old_answers", "loops", "pattern"),
    KEPT: ("kl",),
}
FIGURES = {
    LEARNED: (
        Figure("score", "score", LEARN_SET, is_score=True, higher_is_better=True),
        Figure("accuracy", "correct", LEARN_SET, is_share=True, higher_is_better=True),
        Figure("reference_nll", "reference_nll", LEARN_SET),
        *likelihood(LEARN_SET, higher_is_better=True),
    ),
    LET_GO: (
        OLD_ANSWERS,
        *HABITS,
        Figure("old_nll", "old_nll", FORGET_SET, higher_is_better=True),
        *likelihood(FORGET_SET, higher_is_better=False),
        Figure("accuracy", "correct", FORGET_SET, is_share=True),
        Figure("score", "score", FORGET_SET, is_score=True),
    ),
    KEPT: (
        Figure("kl", "kl", KEEP_SET),
        Figure("same_answers", "old_answer", KEEP_SET, is_share=True, higher_is_better=True),
        Figure("accuracy", "correct", KEEP_SET, is_share=True, higher_is_better=True),
        Figure("score", "score", KEEP_SET, is_score=True, higher_is_better=True),
        *likelihood(KEEP_SET, higher_is_better=True),
        Figure("neutral_perplexity", "reference_nll", NEUTRAL_SET, is_perplexity=True),
    ),
}


def outcomes(rows: Sequence[Row], validation: bool = False) -> Row:
    """The three outcomes, from rows of `answers.parquet`.

    Args:
        rows: the answers of all models.
        validation: whether they are measured on the validation prompts, which decide, instead of
            the test prompts, which are reported.

    Returns:
        for each outcome that was measured its deciding figure, as `measure_figure` gives it, and
        under "more" its other figures by name.
    """
    result: Row = {}
    for outcome, figures in FIGURES.items():
        measured = {figure.name: measure_figure(rows, figure, validation) for figure in figures}
        found = {name: figure for name, figure in measured.items() if figure}
        if main := next((name for name in DECIDING[outcome] if name in found), None):
            result[outcome] = found.pop(main) | {"more": found}
    return result


def measure_figure(rows: Sequence[Row], figure: Figure, validation: bool = False) -> Row:
    """One figure for each model, and the paired difference of LWF and SFT.

    Returns:
        `figure`, its name; `base`, `sft`, `lwf` and with habits `sft_rule`, each with `value`, `n`
        and `ci95`; and `lwf_minus_sft` with `difference`, `ci95` and `p_value`. Of a perplexity the
        difference is that of the mean NLLs, nats per token. Empty if nothing was measured.
    """
    values: dict[str, dict[tuple[str, str], Any]] = {}
    for row in rows:
        name = _base_set(row["set"], validation)
        if name is not None and name.startswith(figure.sets) and row.get(figure.column) is not None:
            values.setdefault(row["model"], {})[row["set"], row["id"]] = row[figure.column]
    if not values:
        return {}
    result: Row = {"figure": figure.name}
    for model, of_model in values.items():
        result[model] = summary(list(of_model.values()), figure)
    if {"sft", "lwf"} <= values.keys():
        both = [key for key in values["lwf"] if key in values["sft"]]
        pair = [[values[model][key] for key in both] for model in ("lwf", "sft")]
        result["lwf_minus_sft"] = difference(figure)(*pair)
    return result


def _base_set(name: str, validation: bool) -> str | None:
    """A set's name without "validation:"; None if it is of the other part.

    Neutral text, which nothing was chosen by, is in both.
    """
    if name == NEUTRAL_SET:
        return name
    is_validation = name.startswith(VALIDATION)
    if is_validation != validation:
        return None
    return name.removeprefix(VALIDATION).removeprefix(":") or LEARN_SET


def difference(figure: Figure) -> Callable[[Sequence[float], Sequence[float]], Row]:
    """The paired statistics of a figure: those of shares and scores, or of means."""
    is_bounded = figure.is_share or figure.is_score
    return stats.paired_difference if is_bounded else stats.paired_mean


def summary(values: Sequence[Any], figure: Figure) -> Row:
    """`value`, `n` and `ci95` of a figure: Wilson's interval of a share, else Student's t.

    That of a score is by the bootstrap.
    """
    if figure.is_score:
        found = stats.score(values)
        return {"value": found["score"], "n": found["n"], "ci95": found["ci95"]}
    if figure.is_share:
        share = stats.accuracy(values)
        return {"value": share["accuracy"], "n": share["n"], "ci95": share["ci95"]}
    numbers = np.array([value for value in values if np.isfinite(value)], dtype=float)
    mean, interval = stats.mean(numbers)
    unit: Callable[[float], float] = stats.bounded_exp if figure.is_perplexity else float
    limits = [None if limit is None else unit(limit) for limit in interval]
    return {"value": unit(mean), "n": len(numbers), "ci95": limits}


def headroom(rows: Sequence[Row], rule: Rule) -> Row:
    """How often plain fine-tuning errs on the validation set with the base model's own answer.

    Forgetting can improve the learning task by no more than this share.

    Args:
        rows: of `baseline.parquet`.
        rule: of the learning task.

    Returns:
        `errors`, `old_answers` among them, `n`, and `share` of the old answers in all prompts with
        its `ci95`. Empty without a validation set or without the SFT baseline.
    """
    answers = {
        model: {r["id"]: r for r in rows if r["set"] == VALIDATION and r["model"] == model}
        for model in ("base", "sft")
    }
    if not answers["sft"] or not answers["base"]:
        return {}
    wrong = [row for row in answers["sft"].values() if is_wrong(row)]
    old = [
        same_answer(
            rule.read(row["reference"], row["prompt"]),
            row["prompt"],
            row["generated"],
            answers["base"][row["id"]]["generated"],
        )
        for row in wrong
    ]
    n = len(answers["sft"])
    share = stats.accuracy([True] * sum(old) + [False] * (n - sum(old)))
    return {
        "errors": len(wrong),
        "old_answers": sum(old),
        "n": n,
        "share": share["accuracy"],
        "ci95": share["ci95"],
    }
