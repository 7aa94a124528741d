"""Two sets of answers to the same questions, compared by paired statistics."""

from dataclasses import dataclass, field

import numpy as np

from letgo.errors import InputError
from letgo.evaluation import statistics as stats
from letgo.evaluation.effects import crossed_mean, effect, examples_needed, holm
from letgo.evaluation.outcomes import Figure, difference, summary
from letgo.run.folder import Row

Name = tuple[str, str]  # an outcome, set or task, and a figure in it
Key = tuple[str, ...]  # of an example
Values = dict[Key, float]


@dataclass
class Side:
    """The measured answers of one side of a comparison.

    Attributes:
        name: what the user calls it, e.g. the run folder.
        label: `name` and the model that answered.
        seeds: by seed and figure the value of every example.
        figures: what is measured, by name.
    """

    name: str
    label: str
    seeds: dict[str, dict[Name, Values]] = field(default_factory=dict)
    figures: dict[Name, Figure] = field(default_factory=dict)


def compare(a: Side, b: Side, size: float) -> Row:
    """The paired differences of two sides, B minus A, in every figure that both have.

    Args:
        a, b: the sides. Runs of several seeds are paired by their seed.
        size: the difference worth finding, in the unit of the figures.

    Returns:
        `notes`, sentences on what is not compared, and under `figures` for each `group`, `figure`,
        `is_share`; `a` and `b`, each with `value`, `n` and `ci95`; and `b_minus_a` with
        `difference`, `ci95`, `p_value`, `p_holm` (over all figures), `seeds`, `n`, `detectable`
        (the difference that these examples and seeds would find with a power of 0.8),
        `examples_needed` and `seeds_needed` to find `size` so (None if it cannot be told, or no
        number is enough).

    Raises:
        InputError: the sides have no seed, no figure or no example in common.
    """
    seeds = _seeds(a, b)
    rows: list[Row] = []
    notes: dict[str, None] = {}
    for name in [name for name in a.figures if name in b.figures]:
        pairs = [(a.seeds[i].get(name, {}), b.seeds[j].get(name, {})) for i, j in seeds]
        parts = [values for pair in pairs for values in pair]
        keys = [key for key in parts[0] if all(key in values for values in parts)]
        notes |= dict.fromkeys(_notes(name, len(keys), pairs))
        if not keys:
            continue
        ours = np.array([[values[key] for key in keys] for _, values in pairs], dtype=float)
        theirs = np.array([[values[key] for key in keys] for values, _ in pairs], dtype=float)
        group, figure = name[0], a.figures[name]
        row: Row = {"group": group, "figure": figure.name, "is_share": figure.is_share}
        row |= {"a": _value(theirs, figure), "b": _value(ours, figure)}
        rows.append(row | {"b_minus_a": _difference(ours, theirs, figure, size)})
    if not rows:
        raise InputError(_nothing_shared(a, b))
    corrected = holm([row["b_minus_a"]["p_value"] for row in rows])
    for row, p_value in zip(rows, corrected, strict=True):
        row["b_minus_a"]["p_holm"] = p_value
    return {"figures": rows, "notes": list(notes)}


def _notes(name: Name, shared: int, pairs: list[tuple[Values, Values]]) -> list[str]:
    """How many answers to the examples of a figure are not compared."""
    left = [len(set[Key]().union(*side)) - shared for side in zip(*pairs, strict=True)]
    of = " ".join(filter(None, name))
    return [
        f"{of}: {count} examples of {letter} have no partner and are left out"
        for letter, count in zip("AB", left, strict=True)
        if count
    ]


def _seeds(a: Side, b: Side) -> list[tuple[str, str]]:
    """The seeds of either side that are compared with each other."""
    if len(a.seeds) == len(b.seeds) == 1:
        (one,), (other,) = a.seeds, b.seeds
        return [(one, other)]
    shared = [seed for seed in a.seeds if seed in b.seeds]
    if not shared:
        names = " and ".join(f"{side.name} has {', '.join(side.seeds)}" for side in (a, b))
        raise InputError(f"A and B have no seed in common: {names}; compare runs of the same seeds")
    return [(seed, seed) for seed in shared]


def _nothing_shared(a: Side, b: Side) -> str:
    if not any(name in b.figures for name in a.figures):
        names = [
            ", ".join(" ".join(filter(None, name)) for name in s.figures) or "none" for s in (a, b)
        ]
        return (
            f"A and B have no metric in common: {a.name} has {names[0]}; {b.name} has {names[1]}; "
            f"rename a column by --columns NAME=COLUMN"
        )
    return (
        f"A and B have no example in common: {a.name} and {b.name} answer other questions; compare "
        f"answers to the same test set (for runs, set --learn_test)"
    )


def _value(values: np.ndarray, figure: Figure) -> Row:
    """`value`, `n` and `ci95` of values (seeds, examples) of one side."""
    if len(values) == 1:
        return summary(values[0].astype(bool) if figure.is_share else values[0], figure)
    mean = crossed_mean(values)
    numbers = [mean.value, *mean.interval()]
    if figure.is_share or figure.is_score:
        numbers = [min(max(number, 0.0), 1.0) for number in numbers]
    if figure.is_perplexity:
        numbers = [stats.bounded_exp(number) for number in numbers]
    return {"value": numbers[0], "n": values.shape[1], "ci95": numbers[1:]}


def _difference(ours: np.ndarray, theirs: np.ndarray, figure: Figure, size: float) -> Row:
    """Of one seed the paired difference of its examples, of several the crossed effect."""
    differences = ours - theirs
    result: Row = effect(ours, theirs, size)
    result = {key: value for key, value in result.items() if not key.startswith("relative")}
    if len(differences) == 1:
        result |= difference(figure)(list(ours[0]), list(theirs[0]))
    return result | {
        "detectable": crossed_mean(differences).detectable() if np.ptp(differences) else None,
        "examples_needed": examples_needed(differences, size),
    }
