"""LWF against SFT on tasks of lm-evaluation-harness, document by document."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from letgo.evaluation import statistics as stats
from letgo.evaluation.effects import holm
from letgo.run.folder import Row

RESAMPLES = 1000
SLOW, FEWER = ("bleu", "chrf", "ter"), 100  # metrics of a corpus, as many as the harness resamples
Values = dict[Any, Any]  # a metric's value by document
Aggregate = Callable[[list[Any]], float]


def metric_name(metric: str, filter_name: str) -> str:
    """What a metric of a filter is called: "acc", "exact_match (strict-match)"."""
    return metric if filter_name == "none" else f"{metric} ({filter_name})"


def sample_rows(model: str, samples: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of `harness_samples.parquet`, one for each task, metric and document.

    Args:
        model: "base", "sft" or "lwf".
        samples: of the harness, by task, with one entry for each filter and document.

    Returns:
        rows of `model`, `task`, `metric`, `doc_id`, `doc_hash`, `value` (None where a metric has
        no number for a document alone), `target` and `answer`, as text.
    """
    rows = []
    for task, of_task in samples.items():
        for sample in of_task:
            for metric in sample["metrics"]:
                row = {
                    "model": model,
                    "task": task,
                    "metric": metric_name(metric, sample["filter"]),
                    "doc_id": int(sample["doc_id"]),
                    "doc_hash": sample["doc_hash"],
                    "value": _number(sample[metric]),
                    "target": str(sample["target"]),
                    "answer": _text(sample["filtered_resps"]),
                }
                rows.append(row)
    return rows


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float | np.number) else None


def _text(answers: Any) -> str:
    """A document's answer; the log-likelihoods of its choices as they are."""
    while isinstance(answers, list | tuple) and len(answers) == 1:
        answers = answers[0]
    return str(answers)


def values_of(samples: Mapping[str, Sequence[Row]], groups: Mapping[str, Sequence[str]]) -> Row:
    """The values of every task or group and metric, by task and number of the document.

    Args:
        samples: as of `sample_rows`.
        groups: the names of the tasks and groups in each group.
    """
    values: dict[str, dict[str, Values]] = {}
    for name in [*samples, *(group for group in groups if group not in samples)]:
        for task in _tasks(name, groups):
            for sample in samples.get(task, ()):
                for metric in sample["metrics"]:
                    of_metric = values.setdefault(name, {}).setdefault(
                        metric_name(metric, sample["filter"]), {}
                    )
                    of_metric[task, sample["doc_id"]] = sample[metric]
    return values


def _tasks(name: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, of the groups in it too; a task is its own."""
    children = groups.get(name)
    return [task for child in children for task in _tasks(child, groups)] if children else [name]


def differences(
    ours: Row, theirs: Row, figures: Row, aggregates: Mapping[str, Mapping[str, Aggregate]]
) -> Row:
    """LWF minus SFT in every task and metric.

    A metric that is the mean over documents is tested as a run's answers are: exactly (McNemar)
    where documents are right or wrong. Any other is resampled over documents, by its aggregation.

    Args:
        ours, theirs: `values_of` LWF and SFT.
        figures: LWF's results by task and metric, with `value`.
        aggregates: by task and metric (without its filter) the harness's aggregation.

    Returns:
        by task and metric `difference`, `ci95`, `p_value`, `p_holm` (over all of them) and `n`;
        without what cannot be paired, such as a group that weights its tasks equally.
    """
    result: Row = {}
    for task, metrics in ours.items():
        for metric, by_document in metrics.items():
            other, reported = theirs[task].get(metric, {}), figures.get(task, {}).get(metric)
            keys = [key for key in by_document if key in other]
            if not keys or reported is None:
                continue
            pair = ([by_document[key] for key in keys], [other[key] for key in keys])
            aggregate = aggregates.get(task, {}).get(metric.partition(" (")[0])
            if found := _difference(*pair, reported["value"], metric, aggregate):
                result.setdefault(task, {})[metric] = {**found, "n": len(keys)}
    all_pairs = [pair for metrics in result.values() for pair in metrics.values()]
    for pair, p_value in zip(all_pairs, holm([p["p_value"] for p in all_pairs]), strict=True):
        pair["p_holm"] = p_value
    return result


def _difference(
    ours: list[Any], theirs: list[Any], reported: float, metric: str, aggregate: Aggregate | None
) -> Row:
    numbers = [[_number(value) for value in values] for values in (ours, theirs)]
    if None not in numbers[0] + numbers[1]:
        left, right = (np.array(values, dtype=float) for values in numbers)
        if np.isclose(left.mean(), reported, rtol=1e-6, atol=1e-9):
            both = np.concatenate([left, right])
            bounded = both.min() >= 0 and both.max() <= 1
            test = stats.paired_difference if bounded else stats.paired_mean
            return test(list(left), list(right))
    if aggregate is None or not np.isclose(aggregate(ours), reported, rtol=1e-6):
        return {}
    return _resampled(ours, theirs, aggregate, FEWER if metric.startswith(SLOW) else RESAMPLES)


def _resampled(ours: list[Any], theirs: list[Any], aggregate: Aggregate, count: int) -> Row:
    """The difference of a metric of all documents together, by the paired bootstrap over them."""
    rng, n = np.random.default_rng(0), len(ours)
    resampled = []
    for _ in range(count):
        chosen = rng.integers(n, size=n)
        parts = [[values[i] for i in chosen] for values in (ours, theirs)]
        resampled.append(float(aggregate(parts[0])) - float(aggregate(parts[1])))
    found = np.array(resampled)
    tail = min((found <= 0).sum(), (found >= 0).sum())
    return {
        "difference": float(aggregate(ours)) - float(aggregate(theirs)),
        "ci95": [float(limit) for limit in np.quantile(found, [0.025, 0.975])],
        "p_value": min(1.0, 2 * (float(tail) + 1) / (count + 1)),
    }
