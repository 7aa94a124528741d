"""Reading answers, and the statistics of right and wrong ones."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_rel

from letgo.evaluation.answers import correct, exact, letter, number, reader, reader_of
from letgo.evaluation.statistics import (
    accuracy,
    paired_difference,
    paired_mean,
    perplexity,
    score,
    verdict,
)


@pytest.mark.parametrize(
    ("references", "kind"),
    [
        ([" A. During chemotherapy", " C. Vertical", "B"], letter),
        (["x = 3\n#### 3", "#### 1,200"], number),
        (["very positive", "neutral"], exact),
        (["A. one", "no letter"], exact),
        (["35", "7"], exact),
        (["A rose", "B"], exact),
    ],
)
def test_the_kind_of_reference(references, kind):
    assert reader(references) is kind


@pytest.mark.parametrize(
    ("kind", "generated", "reference", "right"),
    [
        (exact, " very  positive\n", "very positive", True),
        (exact, "positive", "very positive", False),
        (exact, "", "x", False),
        (letter, " B. oaks", "B. oaks", True),
        (letter, "B", "B. oaks", True),
        (letter, "(B) something else", "B. oaks", True),
        (letter, "Because", "B. oaks", False),
        (letter, "The answer is B", "B. oaks", False),
        (number, "so 2 + 2 = 4\n#### 4", "#### 4", True),
        (number, "#### 1200.0", "#### 1,200", True),
        (number, "the result is 4", "#### 4", False),
        (number, "#### -4", "#### 4", False),
    ],
)
def test_right_and_wrong(kind, generated, reference, right):
    assert correct(kind, generated, reference) is right


@pytest.mark.parametrize(("count", "n"), [(0, 20), (7, 20), (20, 20)])
def test_the_wilson_interval(count, n):
    """By the formula."""
    z, p = norm.ppf(0.975), count / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)]
    result = accuracy([True] * count + [False] * (n - count))
    assert result["accuracy"] == p
    assert result["n"] == n
    assert result["ci95"] == pytest.approx(expected, abs=1e-12)


def test_mcnemar_by_hand():
    """8 won, 1 lost: two-sided 2 * P(X <= 1), X ~ Bin(9, 1/2)."""
    ours, theirs = [True] * 8 + [False] + [True] * 11, [False] * 8 + [True] * 12
    result = paired_difference(ours, theirs)
    assert result["difference"] == pytest.approx(7 / 20)
    assert result["p_value"] == pytest.approx(2 * binom.cdf(1, 9, 0.5))
    assert result["ci95"][0] < 7 / 20 < result["ci95"][1]
    assert result["ci95"][0] > 0


def test_scores_are_compared_by_flipping_signs():
    """All 16 signs of 4 differences by hand; the two-sided p-value is 2 of 16."""
    result = paired_difference([0.5, 0.4, 0.75, 1.0], [0.25, 0.0, 0.5, 0.25])
    assert result["difference"] == pytest.approx(0.4125)
    assert result["p_value"] == pytest.approx(2 / 16)
    assert 0 < result["ci95"][0] < 0.4125 < result["ci95"][1]
    rng = np.random.default_rng(3)
    ours = rng.random(60)
    theirs = np.clip(ours - rng.normal(0.05, 0.1, 60), 0, 1)
    many = paired_difference(ours.tolist(), theirs.tolist())
    assert many["p_value"] == pytest.approx(ttest_rel(ours, theirs).pvalue, abs=0.02)
    t = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert many["ci95"] == pytest.approx([t.low, t.high], abs=0.01)


def test_scores_of_zero_and_one_are_right_and_wrong_answers():
    ours, theirs = [True] * 8 + [False] * 4, [False] * 7 + [True] * 5
    as_scores = paired_difference(list(map(float, ours)), list(map(float, theirs)))
    assert as_scores == paired_difference(ours, theirs)


def test_few_scores_prove_nothing():
    assert paired_difference([0.5], [0.2])["p_value"] == 1.0
    for differences in ([0.3], [0.3, 0.1], [0.3, 0.0], [0.0, 0.0, 0.2]):
        result = paired_difference(differences, [0.0] * len(differences))
        assert result["p_value"] >= 0.5 or len(differences) == 3
        assert all(math.isfinite(limit) for limit in result["ci95"]), differences


def test_the_interval_of_a_mean_score():
    found = score([0.1, 0.4, 0.4, 0.9])
    assert found["score"] == pytest.approx(0.45)
    assert found["n"] == 4
    assert 0.1 < found["ci95"][0] < 0.45 < found["ci95"][1] < 0.9
    low, high = score([1.0] * 30)["ci95"]
    assert 0.8 < low < 0.95  # 0.025^(1/30) is 0.884
    assert high == 1.0


def test_equal_answers_are_no_proof_of_equality():
    result = paired_difference([True] * 30, [True] * 30)
    assert result["p_value"] == 1.0
    low, high = result["ci95"]
    assert low == -high
    assert 0.05 < high < 0.2  # 1 - 0.025^(1/30)


def test_the_interval_covers_and_the_test_holds_its_level():
    """Simulated without a difference: at most 5 % false alarms, about 95 % coverage."""
    rng = np.random.default_rng(1)
    alarms = covered = 0
    for _ in range(200):
        ours, theirs = rng.random(80) < 0.6, rng.random(80) < 0.6
        result = paired_difference(ours.tolist(), theirs.tolist())
        alarms += result["p_value"] < 0.05
        covered += result["ci95"][0] <= 0 <= result["ci95"][1]
    assert alarms <= 18
    assert covered >= 180


def test_the_verdict_keeps_plain_fine_tuning_unless_a_gain_is_shown():
    same = paired_mean([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    likelier = paired_mean([0.1, 0.2, 0.1, 0.2], [1.0, 1.2, 1.1, 1.3])
    unlikelier = paired_mean([1.0, 1.2, 1.1, 1.3], [0.1, 0.2, 0.1, 0.2])
    better = paired_difference([True] * 30 + [False] * 5, [False] * 30 + [False] * 5)
    equal = paired_difference([True, False], [False, True])
    fewer = paired_difference([False, True, True], [True, True, True])
    for accuracy_of, nll, kept in (
        (better, same, "lwf"),
        (better, unlikelier, "lwf"),
        (equal, likelier, "lwf"),
        (equal, same, "sft"),
        (equal, unlikelier, "sft"),
        (fewer, likelier, "sft"),
    ):
        assert verdict({**accuracy_of, "reference_nll": nll}) == kept


def test_equal_models_are_rarely_told_apart():
    """Two models with the same ability, right answers and likelihoods correlated."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(150):
        shared = rng.normal(size=100)
        ours, theirs = (shared + 0.5 * rng.normal(size=100) for _ in range(2))
        right = paired_difference((ours > 0).tolist(), (theirs > 0).tolist())
        nll = paired_mean((-ours).tolist(), (-theirs).tolist())
        found += verdict({**right, "reference_nll": nll}) == "lwf"
    assert found <= 12  # 3.5 % expected


def test_the_perplexity_of_a_ruined_model_is_a_number():
    assert perplexity([1.0, 3.0]) == pytest.approx(np.exp(2.0))
    assert 1e300 < perplexity([5000.0]) < np.inf


def test_a_paired_mean_is_the_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.3, 1, 40), rng.normal(0, 1, 40)
    found = paired_mean([*ours, np.nan], [*theirs, 1.0])  # a pair without a figure is left out
    assert found["p_value"] == pytest.approx(ttest_rel(ours, theirs).pvalue)
    assert found["difference"] == pytest.approx((ours - theirs).mean())
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]
    assert paired_mean([1.0], [2.0])["p_value"] == 1


CITIES = ["Paris", "Delhi", "Lima", "Oslo"]
OPTIONS = "Which?\nA. oaks\nB. rocks\nC. (none)\nAnswer:"


@pytest.mark.parametrize(
    ("references", "prompts", "rule"),
    [
        ([f"A: {city}" for city in CITIES], [f"Q{n}: city {n}?" for n in range(4)], exact),
        ([f"A: {city}" for city in CITIES], ["Q: city?\nA:"] * 4, exact),
        ([f"A: {city}" for city in CITIES], [f"A. {c}\nB. x\nC. y" for c in CITIES], exact),
        (["J. Smith", "J. Brown"], [], exact),
        (["J. Smith", "M. Brown"], ["Who?"] * 2, exact),
        (["A. Smith", "B. Jones"], ["Who?"] * 2, exact),
        (["A: hello", "B: fine"], ["A: hi\nB: you?\nA:", "A: so\nB: no\nA: how?\nB:"], exact),
        (["B. rocks", "A. oaks"], [OPTIONS] * 2, letter),
        ([" B. Rocks, as they are hard", "(C) none", "A"], [OPTIONS] * 3, letter),
        (["(B) elm", "(A) oak"], ["Tree? (A) oak (B) elm", "Tree? (A) oak, (B) elm."], letter),
        (["A", "B", "(C)", "D."], ["Which?"] * 4, letter),
        (["A", "A"], ["Which?"] * 2, letter),
        (["B. rocks", "A. oaks", "no idea"], [OPTIONS] * 3, letter),
        (["#### 5", "so\n#### $7", "1,200 #### 1 200"], [], number),
        (["#### 5", "#### 7", "no number"], [], number),
        (["#### 3/4", "#### 1/2"], [], number),
        (["#### 1. Mix", "#### 2. Burn"], [], exact),
        (["#### 2024\nIt began.", "#### 2025\nIt ended."], [], exact),
        (["#### 10:45", "#### 10:30"], [], exact),
    ],
)
def test_a_rule_is_taken_only_where_it_surely_fits(references, prompts, rule):
    assert reader(references, prompts) is rule


@pytest.mark.parametrize(
    ("generated", "reference", "right"),
    [
        ("3/8", "3/4", False),
        ("3/4", "3/4", True),
        ("3/4 cup", "3/4 cup", True),
        ("10:45", "10:30", False),
        ("1 500", "1 234", False),
        ("1500", "1 500", True),
        ("1,500.0", "1500", True),
        ("1,00,000", "100000", True),
        ("1. Mix", "1. Burn", False),
        ("1. Mix  it", "1. Mix it", True),
        ("5 km", "5 miles", False),
        ("5 or 6", "5", False),
        ("5-6", "5", False),
        ("1e5", "1", False),
        ("2^10", "2", False),
        ("12:00", "12", False),
        ("1.5.2", "1.5", False),
        ("$18", "18", True),
        ("$18.00.", "18", True),
        ("18 €", "18", True),
        ("-$5", "-5", True),
        ("\u22125", "-5", True),
        ("20%", "20", True),
        ("18\n\nNext question: 3", "18", True),
        (".5", "0.50", True),
        ("9007199254740993", "9007199254740992", False),
        ("9" * 5000, "9" * 5000, True),
        ("1/0", "1/0", True),
        ("0.1", "0.1000000000000000055511151231257827", False),
        ("", "x", False),
    ],
)
def test_a_number_is_read_wholly_or_not_at_all(generated, reference, right):
    assert correct(number, f"so\n#### {generated}", f"thus\n#### {reference}") is right


def test_what_a_rule_does_not_read_is_compared_exactly():
    assert correct(number, " no  number", "no number")
    assert not correct(number, "#### 5", "no number")
    assert reader_of(letter, "J. Smith", "Who?") is exact
    assert reader_of(letter, "B. rocks", OPTIONS)("Rocks, so the answer is (B).") == "B"
    assert reader_of(number, "#### 1. Mix", "?") is number
