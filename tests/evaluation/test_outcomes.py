"""Figures of the outcomes from hand-made answers, and the headroom."""

import math

import pytest

from letgo.evaluation.outcomes import FIGURES, headroom, measure_figure, outcomes
from letgo.evaluation.rules import RULES


def row(model, name, id, **metrics):
    texts = {"prompt": f"question {id}?", "reference": "", "generated": ""}
    return {"model": model, "set": name, "id": id, **texts, **metrics}


def answers(model, name, values, column):
    return [row(model, name, str(i), **{column: value}) for i, value in enumerate(values)]


def test_a_share_over_several_sets():
    rows = []
    for model, values in {
        "base": [True] * 4,
        "sft": [True, True, True, False],
        "lwf": [False] * 4,
    }.items():
        rows += answers(model, "forget:a", values[:2], "old_answer")
        rows += answers(model, "forget:b", values[2:], "old_answer")
        rows += answers(model, "validation:forget:a", [True], "old_answer")
    figure = outcomes(rows)["let_go"]
    assert figure["figure"] == "old_answers"
    assert [figure[m]["value"] for m in ("base", "sft", "lwf")] == [1.0, 0.75, 0.0]
    assert figure["sft"]["n"] == 4
    assert figure["lwf_minus_sft"]["difference"] == -0.75
    assert outcomes(rows, validation=True)["let_go"]["lwf"] == pytest.approx(
        {"value": 1.0, "n": 1, "ci95": pytest.approx([0.2065, 1.0], abs=1e-3)}
    )
    assert "learned" not in outcomes(rows)


def test_means_and_perplexities():
    rows = answers("sft", "keep:x", [0.1, 0.3], "kl") + answers("lwf", "keep:x", [0.0, 0.1], "kl")
    for model in ("sft", "lwf"):
        rows += answers(model, "neutral", [3.0, 3.0], "reference_nll")
    kept = outcomes(rows)["kept"]
    assert kept["sft"]["value"] == pytest.approx(0.2)
    assert kept["lwf_minus_sft"]["difference"] == pytest.approx(-0.15)
    perplexity = kept["more"]["neutral_perplexity"]
    assert perplexity["sft"]["value"] == pytest.approx(math.exp(3))
    assert perplexity["lwf_minus_sft"]["difference"] == 0
    assert outcomes(rows, validation=True) == {}  # there is nothing that decides


def test_values_that_are_not_finite_are_counted_out():
    figure = FIGURES["kept"][0]
    rows = answers("sft", "keep:x", [0.1, 0.3, 0.2], "kl")
    rows += answers("lwf", "keep:x", [math.nan, 0.3, math.inf], "kl")
    measured = measure_figure(rows, figure)
    assert (measured["sft"]["n"], measured["lwf"]["n"]) == (3, 1)
    assert measured["lwf"]["ci95"] == [None, None]


def test_the_headroom_counts_errors_with_the_old_answer():
    """Of four errors two are what the base model says; one right answer is, too."""
    rows = []
    said = {
        "base": ["red", "blue", "green", "pink", "grey"],
        "sft": ["red", "blue", "black", "white", "grey"],
        "right": ["tan", "tan", "tan", "tan", "grey"],
    }
    for model in ("base", "sft"):
        for i, (answer, right) in enumerate(zip(said[model], said["right"], strict=True)):
            made = row(model, "validation", str(i), correct=answer == right)
            rows.append({**made, "generated": answer, "reference": right})
    found = headroom(rows, RULES["exact"])
    assert (found["errors"], found["old_answers"], found["n"], found["share"]) == (4, 2, 5, 0.4)
    assert found["ci95"][0] < 0.4 < found["ci95"][1]
    assert headroom([r for r in rows if r["model"] == "base"], RULES["exact"]) == {}
