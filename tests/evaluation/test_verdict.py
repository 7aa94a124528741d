"""The verdict, by a table of all combinations of its three parts, and each part by its interval."""

from itertools import product

import pytest

from letgo.evaluation.verdict import (
    BETTER,
    LESS,
    MORE,
    NOT_LESS,
    NOT_MORE,
    NOT_WORSE,
    OPEN,
    UNMEASURED,
    WORSE,
    Verdict,
    judge,
    sentence,
)


def pair(difference, low, high, p=0.01):
    return {"difference": difference, "ci95": [low, high], "p_value": p}


def outcome(difference, nll=None, n=100):
    figure = {"value": 0.5, "n": n, "ci95": [0.4, 0.6]}
    nll = nll or pair(0.0, -0.1, 0.1, 1.0)
    more = {"reference_nll": {"lwf_minus_sft": nll}}
    return {"sft": figure, "lwf": figure, "lwf_minus_sft": difference, "more": more}


@pytest.mark.parametrize(
    ("learned", "let_go", "kept"),
    product(
        (BETTER, NOT_WORSE, OPEN, WORSE),
        (MORE, NOT_MORE, UNMEASURED),
        (MORE, NOT_LESS, LESS, UNMEASURED),
    ),
)
def test_every_combination(learned, let_go, kept):
    """LWF where it learned better; or learned not worse, let go more and kept not less.

    Where there is nothing to let go, it must have kept more.
    """
    lets_go = let_go == MORE and kept != LESS
    only_keeps = let_go == UNMEASURED and kept == MORE
    expected = learned == BETTER or (learned == NOT_WORSE and (lets_go or only_keeps))
    assert Verdict(learned, let_go, kept).model == ("lwf" if expected else "sft")


@pytest.mark.parametrize(
    ("difference", "nll", "margin", "part"),
    [
        (pair(0.05, 0.01, 0.09), None, 2, BETTER),
        (pair(0.0, -0.015, 0.015, 1.0), pair(-0.1, -0.2, -0.01), 2, BETTER),
        (pair(-0.01, -0.03, 0.01, 0.5), pair(-0.1, -0.2, -0.01), 5, NOT_WORSE),
        (pair(0.0, -0.019, 0.019, 1.0), None, 2, NOT_WORSE),
        (pair(0.0, -0.021, 0.021, 1.0), None, 2, OPEN),
        (pair(0.0, -0.021, 0.021, 1.0), None, 3, NOT_WORSE),
        (pair(-0.05, -0.09, -0.01), None, 2, WORSE),
    ],
)
def test_what_was_learned(difference, nll, margin, part):
    assert judge({"learned": outcome(difference, nll)}, margin).learned == part


@pytest.mark.parametrize(
    ("difference", "part"),
    [
        (pair(-0.5, -0.7, -0.3), MORE),
        (pair(-0.1, -0.3, 0.1, 0.3), NOT_MORE),
        (pair(0.5, 0.3, 0.7), NOT_MORE),
    ],
)
def test_what_was_let_go(difference, part):
    learned = outcome(pair(0.0, -0.01, 0.01, 1.0))
    assert judge({"learned": learned, "let_go": outcome(difference)}, 2).let_go == part


@pytest.mark.parametrize(
    ("difference", "n", "part"),
    [
        (pair(-0.3, -0.5, -0.1), 100, MORE),
        (pair(0.0, -0.01, 0.01, 1.0), 100, NOT_LESS),
        (pair(0.0, -0.03, 0.03, 1.0), 100, LESS),
        (pair(0.0, None, None, 1.0), 1, LESS),
        (pair(-0.3, -0.5, -0.1), 99, LESS),  # the KL of a ruined model is not finite
    ],
)
def test_what_was_kept(difference, n, part):
    kept = outcome(difference)
    kept["lwf"] = {**kept["lwf"], "n": n}
    learned = outcome(pair(0.0, -0.01, 0.01, 1.0))
    verdict = judge({"learned": learned, "kept": kept}, 2)
    assert verdict.kept == part
    words = sentence(verdict, {"learned": learned, "kept": kept})
    assert words.startswith("LWF learned not worse (50.0 % right, SFT 50.0, n = 100), kept")
    assert "let go" not in words
