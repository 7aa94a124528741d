"""LWF against SFT on the harness's samples, in their documented form; lm_eval is not needed."""

import numpy as np
import pytest
from scipy.stats import binomtest

from letgo.evaluation.effects import holm
from letgo.evaluation.harness_pairs import differences, sample_rows, values_of
from letgo.evaluation.statistics import paired_difference

RIGHT = np.random.default_rng(0).random((2, 40)) < [[0.7], [0.4]]  # LWF, SFT


def sample(number, filter_name="none", **metrics):
    return {
        "doc_id": number,
        "doc": {},
        "target": "B",
        "arguments": [["prompt", {}]],
        "resps": [["B. "]],
        "filtered_resps": ["B"],
        "filter": filter_name,
        "metrics": list(metrics),
        "doc_hash": f"hash {number}",
        **metrics,
    }


def results(values):
    return {
        task: {metric: {"value": value} for metric, value in m.items()}
        for task, m in values.items()
    }


def two_tasks(side):
    """Right and wrong answers in two tasks of a group, with two filters in the second."""
    first = [sample(n, acc=float(RIGHT[side][n])) for n in range(25)]
    second = [
        sample(n, rule, acc=float(RIGHT[side][n + 25]))
        for n in range(15)
        for rule in ("none", "strict")
    ]
    return {"one": first, "two": second[::-1] if side else second}  # in any order


GROUPS = {"all": ["inner"], "inner": ["one", "two"], "one": [], "two": []}


def test_right_and_wrong_answers_get_the_exact_test_in_tasks_and_groups():
    ours, theirs = (values_of(two_tasks(side), GROUPS) for side in (0, 1))
    assert ours.keys() == {"one", "two", "all", "inner"}
    parts = {"one": slice(25), "two": slice(25, 40), "all": slice(40), "inner": slice(40)}
    figures = results({name: {"acc": RIGHT[0][part].mean()} for name, part in parts.items()})
    figures["two"]["acc (strict)"] = figures["two"]["acc"]
    # The mean of both tasks, which weights their documents differently: it is not paired.
    figures["inner"]["acc"]["value"] = (RIGHT[0][:25].mean() + RIGHT[0][25:].mean()) / 2
    found = differences(ours, theirs, figures, {})
    assert found.keys() == {"one", "two", "all"}
    for name, part in (("one", parts["one"]), ("all", parts["all"])):
        pair, expected = found[name]["acc"], paired_difference(*map(list, RIGHT[:, part]))
        assert {key: pair[key] for key in expected} == expected
        difference = RIGHT[0][part].astype(int) - RIGHT[1][part]
        won, lost = (difference > 0).sum(), (difference < 0).sum()
        assert pair["p_value"] == pytest.approx(binomtest(won, won + lost).pvalue)
        assert pair["n"] == len(difference)
    assert found["two"]["acc"]["difference"] == found["two"]["acc (strict)"]["difference"]
    every = [pair for metrics in found.values() for pair in metrics.values()]
    assert [p["p_holm"] for p in every] == pytest.approx(holm([p["p_value"] for p in every]))


def test_a_metric_of_all_documents_together_is_resampled():
    """A ratio of sums, as a perplexity by words is."""
    rng = np.random.default_rng(1)
    sums = rng.integers(3, 9, 60)
    sides = [[(float(s * rate), int(s)) for s in sums] for rate in (1.0, 1.5)]

    def ratio(values):
        return sum(a for a, _ in values) / sum(b for _, b in values)

    ours, theirs = (
        values_of({"text": [sample(n, bits=pair) for n, pair in enumerate(side)]}, {})
        for side in sides
    )
    found = differences(ours, theirs, results({"text": {"bits": 1.0}}), {"text": {"bits": ratio}})
    pair = found["text"]["bits"]
    assert pair["difference"] == pytest.approx(-0.5)
    assert pair["ci95"] == pytest.approx([-0.5, -0.5])
    assert pair["p_value"] == pytest.approx(2 / 1001)
    equal = differences(ours, ours, results({"text": {"bits": 1.0}}), {"text": {"bits": ratio}})
    assert equal["text"]["bits"]["p_value"] == 1.0
    assert differences(ours, theirs, results({"text": {"bits": 1.0}}), {}) == {}


def test_a_row_for_each_task_metric_and_document():
    rows = sample_rows("lwf", {"t": [sample(3, "strict", acc=1.0, bits=(2.0, 1))]})
    assert [(row["metric"], row["value"]) for row in rows] == [
        ("acc (strict)", 1.0),
        ("bits (strict)", None),
    ]
    assert rows[0] == {
        "model": "lwf",
        "task": "t",
        "metric": "acc (strict)",
        "doc_id": 3,
        "doc_hash": "hash 3",
        "value": 1.0,
        "target": "B",
        "answer": "B",
    }
