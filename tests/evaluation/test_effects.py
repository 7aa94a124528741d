"""The statistics of a study, compared with libraries and by simulation."""

import numpy as np
import pandas
import pytest
import statsmodels.formula.api as smf
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from letgo.evaluation.effects import (
    crossed_mean,
    effect,
    examples_needed,
    holm,
    mean_of,
    relative,
    seeds_needed,
)


def table(rng, seeds, examples, spread=(0.0, 0.0, 1.0), mean=0.0):
    """Values with random effects of seeds, of examples, and of both together."""
    sizes = [(seeds, 1), (1, examples), (seeds, examples)]
    return mean + sum(s * rng.normal(size=size) for s, size in zip(spread, sizes, strict=True))


def right(rng, seeds, examples, gain=0.0):
    """Right answers of two methods: examples differ in difficulty, and seeds differ."""
    difficulty = rng.normal(size=(1, examples))
    return [
        (
            difficulty
            + 0.1 * rng.normal(size=(seeds, 1))
            + 0.7 * rng.normal(size=(seeds, examples))
            + shift
            > 0
        ).astype(float)
        for shift in (gain, 0.0)
    ]


def test_the_variance_is_that_of_a_mixed_model():
    """Crossed random effects of seeds and examples, by restricted maximum likelihood."""
    values = table(np.random.default_rng(0), 8, 20, (0.6, 0.8, 1.0), 0.3)
    rows = [{"value": v, "seed": s, "example": e, "all": 0} for (s, e), v in np.ndenumerate(values)]
    parts = {"seed": "0 + C(seed)", "example": "0 + C(example)"}
    model = smf.mixedlm("value ~ 1", pandas.DataFrame(rows), groups="all", vc_formula=parts)
    fitted = model.fit(reml=True)
    mean = crossed_mean(values)
    assert mean.value == pytest.approx(float(fitted.params["Intercept"]))
    assert mean.variance == pytest.approx(float(fitted.bse["Intercept"]) ** 2, rel=1e-3)


def test_without_an_effect_of_examples_it_is_the_t_test_over_seeds():
    values = table(np.random.default_rng(1), 6, 1, (1.0, 0.0, 0.0)) * np.ones((6, 50))
    mean, expected = crossed_mean(values), ttest_1samp(values[:, 0], 0.0)
    assert mean.p_value() == pytest.approx(float(expected.pvalue))
    assert mean.interval() == pytest.approx(list(expected.confidence_interval()))


@pytest.mark.parametrize(("seeds", "rate"), [(2, 0.1), (3, 0.05), (5, 0.05)])
@pytest.mark.parametrize(
    "spread", [(0.0, 0.0, 1.0), (0.2, 0.0, 1.0), (0.0, 0.5, 1.0), (0.2, 0.5, 1.0)]
)
def test_a_null_effect_is_significant_in_one_of_twenty_cases(seeds, rate, spread):
    """At most, with three standard errors of the simulation's 2000 cases as tolerance.

    In one of ten with two seeds, which hardly show how much seeds differ.
    """
    rng = np.random.default_rng(2)
    means = [crossed_mean(table(rng, seeds, 100, spread)) for _ in range(2000)]
    significant = [mean.p_value() < 0.05 for mean in means]
    assert np.mean(significant) < rate + 3 * (rate * (1 - rate) / 2000) ** 0.5


def test_a_null_effect_on_right_answers_is_significant_in_one_of_twenty_cases():
    """Both the absolute and the relative difference."""
    rng, cases = np.random.default_rng(3), 1000
    effects = [effect(*right(rng, 5, 150)) for _ in range(cases)]
    bound = 0.05 + 3 * (0.05 * 0.95 / cases) ** 0.5
    assert np.mean([case["p_value"] < 0.05 for case in effects]) < bound
    excluded = [not case["relative_ci95"][0] < 0 < case["relative_ci95"][1] for case in effects]
    assert np.mean(excluded) < bound


def test_a_true_effect_is_within_the_interval_and_significant():
    rng = np.random.default_rng(4)
    ours, theirs = right(rng, 400, 2000, 0.3)
    true = ours.mean() - theirs.mean()
    effects = [effect(*right(rng, 5, 300, 0.3)) for _ in range(300)]
    assert np.mean([case["ci95"][0] < true < case["ci95"][1] for case in effects]) > 0.92
    assert np.mean([case["p_value"] < 0.05 for case in effects]) > 0.8


def test_relative_is_the_ratio_and_its_mean_is_over_tasks():
    rng = np.random.default_rng(5)
    cases = [right(rng, 5, 300, 0.3) for _ in range(3)]
    ratios = [relative(*case) for case in cases]
    values = [ours.mean() / theirs.mean() - 1 for ours, theirs in cases]
    assert [ratio.value for ratio in ratios] == pytest.approx(values)
    mean = mean_of(ratios)
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.variance == pytest.approx(sum(ratio.variance for ratio in ratios) / 9)
    assert relative(np.ones((2, 3)), np.zeros((2, 3))) is None


def test_equal_answers_are_no_proof():
    equal = effect(np.ones((3, 50)), np.ones((3, 50)))
    assert (equal["difference"], equal["p_value"]) == (0.0, 1.0)
    assert equal["ci95"][0] < -0.05 < 0.05 < equal["ci95"][1]


def test_equal_answers_bound_the_relative_gain_too():
    """The bound in points is divided by the second method's accuracy."""
    half = np.tile([0.0, 1.0], (3, 25))
    equal = effect(half, half)
    assert equal["relative_ci95"] == pytest.approx([2 * end for end in equal["ci95"]])
    mean = mean_of([relative(half, half), relative(half, half)])
    assert mean.interval() == pytest.approx([end * 2**0.5 for end in equal["ci95"]])
    assert equal["seeds_needed"] is None


def test_few_examples_are_no_proof():
    assert effect(np.ones((1, 3)), np.zeros((1, 3)))["p_value"] > 0.001
    assert effect(np.ones((2, 1)), np.zeros((2, 1)))["p_value"] > 0.001


def test_one_seed_is_a_t_test_over_examples():
    values = table(np.random.default_rng(6), 1, 40, mean=0.3)
    assert crossed_mean(values).p_value() == pytest.approx(ttest_1samp(values[0], 0.0).pvalue)
    assert seeds_needed(values, 0.02) is None


def test_seeds_needed_is_that_of_a_t_test_if_examples_have_no_effect():
    values = table(np.random.default_rng(7), 5, 1, (1.0, 0.0, 0.0)) * np.ones((5, 30))
    size = 0.8 * float(values[:, 0].std(ddof=1))
    expected = TTestPower().solve_power(effect_size=0.8, power=0.8, alpha=0.05)
    assert abs(seeds_needed(values, size) - np.ceil(expected)) <= 1  # by the central distribution
    few = table(np.random.default_rng(8), 5, 20, (0.0, 1.0, 0.1))
    assert seeds_needed(few, 0.02) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(9)
    for count in (1, 2, 7, 40):
        values = list(rng.uniform(size=count) ** 3)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_examples_needed_of_one_seed_is_that_of_a_t_test():
    values = table(np.random.default_rng(10), 1, 60)
    deviation = float(values.std(ddof=1))
    for size in (0.9, 0.3, 0.05):
        expected = TTestPower().solve_power(effect_size=size, power=0.8, alpha=0.05)
        assert abs(examples_needed(values, size * deviation) - np.ceil(expected)) <= 1
    assert examples_needed(np.ones((1, 9)), 0.02) is None
    assert examples_needed(np.ones((1, 1)), 0.02) is None


def test_as_many_examples_as_needed_find_the_difference():
    """Four of five times, with three standard errors of the simulation as tolerance."""
    rng, spread = np.random.default_rng(11), (0.01, 0.4, 0.6)
    count = examples_needed(table(rng, 40, 2000, spread), 0.1)
    assert count == pytest.approx((0.16 + 0.36 / 40) * (2.87 / 0.1) ** 2, rel=0.15)
    cases = [crossed_mean(table(rng, 40, count, spread, 0.1)) for _ in range(400)]
    found = np.mean([case.p_value() < 0.05 for case in cases])
    assert 0.74 < found < 0.88
    assert np.median([case.detectable() for case in cases]) == pytest.approx(0.1, rel=0.1)


def test_no_number_of_examples_helps_where_seeds_differ():
    values = table(np.random.default_rng(12), 3, 50, (1.0, 0.0, 0.1))
    assert examples_needed(values, 0.02) is None
