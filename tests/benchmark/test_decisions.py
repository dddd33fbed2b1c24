"""Decisions against scipy, published values and simulation: what each verdict needs, and how often it is wrong."""

import numpy as np
import pytest
from scipy import stats

from benchmark.decisions import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    equivalent,
    greater,
    holm,
    more_seeds,
    ordered,
    p_above,
    power,
    reaches,
    verdict,
)
from benchmark.statistics import Interval, Moments, bimodal, binomial_variance, moments, t_interval, welch_interval

HIGH, LOW = moments([0.90, 0.95, 0.88, 0.97, 0.93]), moments([0.05, 0.08, 0.03, 0.10, 0.06])


def test_p_is_scipys():
    first, second = [0.30, 0.42, 0.25, 0.38], [0.11, 0.08, 0.30]
    test = stats.ttest_ind([value - 0.1 for value in first], second, equal_var=False, alternative="greater")
    assert p_above(moments(first), moments(second), 0.1) == pytest.approx(test.pvalue)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.31, 0.9, SUPPORTED), (0.30, 0.9, UNDECIDED), (0.1, 0.29, CONTRADICTED), (0.1, 0.4, UNDECIDED)],
)
def test_verdict_is_where_the_whole_interval_lies(low, high, expected):
    assert verdict(Interval((low + high) / 2, low, high, 10), 0.30) == expected
    assert verdict(Interval(0.9, float("nan"), float("nan"), 2), 0.3) == UNDECIDED


def test_greater_is_where_the_interval_lies():
    assert greater((HIGH, LOW), 0.3).verdict == SUPPORTED
    assert greater((LOW, HIGH), 0.0).verdict == CONTRADICTED
    assert greater((HIGH, LOW), 0.95).verdict == CONTRADICTED  # larger than nothing, but below its bar
    assert greater((HIGH, LOW), 0.86).verdict == UNDECIDED
    decision = greater((HIGH, LOW), 0.3)
    assert decision.effect == welch_interval([0.90, 0.95, 0.88, 0.97, 0.93], [0.05, 0.08, 0.03, 0.10, 0.06])


@pytest.mark.parametrize("margin", np.linspace(0.80, 0.92, 13))
def test_p_falls_below_alpha_exactly_where_greater_decides(margin):
    decision = greater((HIGH, LOW), margin)
    assert (decision.p < 0.05) == (decision.verdict != UNDECIDED)


def test_equivalence_by_hand():
    """Equal variances and n: t = (margin - difference) / (s sqrt(2 / n)) with 2 n - 2 degrees of freedom."""
    first, second = Moments(0.52, 0.04**2, 10), Moments(0.50, 0.04**2, 10)
    error = 0.04 * np.sqrt(0.2)
    decision = equivalent((first, second), 0.05)
    assert decision.p == pytest.approx(stats.t.sf(0.03 / error, 18))
    assert decision.verdict == UNDECIDED  # .0551: not told apart either, which is not enough
    assert greater((first, second), 0.0).verdict == UNDECIDED
    assert equivalent((first, second), 0.06).verdict == SUPPORTED  # .0189
    assert equivalent((first, second), 0.06).p == pytest.approx(stats.t.sf(0.04 / error, 18))


@pytest.mark.parametrize("difference", np.linspace(-0.2, 0.2, 17))
def test_equivalent_means_that_the_90_percent_interval_lies_within_the_margin(difference):
    sides = Moments(0.5 + difference, 0.03**2, 5), Moments(0.5, 0.05**2, 5)
    inner, outer = greater(sides, 0, 0.90).effect, greater(sides, 0).effect
    decision = equivalent(sides, 0.10)
    assert (decision.verdict == SUPPORTED) == (inner.low > -0.10 and inner.high < 0.10)
    assert (decision.verdict == CONTRADICTED) == (outer.low > 0.10 or outer.high < -0.10)
    assert (decision.p < 0.05) == (decision.verdict != UNDECIDED)
    assert decision.effect == outer


def test_ordered_needs_every_neighbour():
    middle = moments([0.5, 0.55, 0.45, 0.52, 0.58])
    assert ordered((HIGH, middle, LOW), 0.0).verdict == SUPPORTED
    assert ordered((HIGH, LOW, middle), 0.0).verdict == CONTRADICTED
    alike = Moments(middle.mean - 0.01, middle.variance, 5)
    decision = ordered((HIGH, middle, alike, LOW), 0.0)
    assert decision.verdict == UNDECIDED
    assert decision.effect.estimate == pytest.approx(0.01)  # of the closest neighbours


def test_reaching_a_bar_is_a_matter_of_the_mean_and_its_p_of_a_t_test():
    shares = [0.95, 0.80, 0.98]
    for bar, expected in ((0.90, SUPPORTED), (0.91, SUPPORTED), (0.92, CONTRADICTED), (0.2, SUPPORTED)):
        decision = reaches((moments(shares),), bar)
        assert decision.verdict == expected
        assert decision.p == pytest.approx(stats.ttest_1samp(shares, bar).pvalue)
    assert decision.p < 0.05 < reaches((moments(shares),), 0.90).p  # the mean reaches .90, but is not told from it
    expected = t_interval(shares).clipped(0, 1)
    assert decision.effect.estimate == expected.estimate and decision.effect.n == expected.n == 3
    assert (decision.effect.low, decision.effect.high) == (pytest.approx(expected.low), 1.0)
    exact = moments([0.5, 1.0])
    assert reaches((exact,), 0.75).verdict == SUPPORTED  # at least


def test_one_seed_decides_nothing():
    one = Moments(0.9, 0.0, 1)
    for rule in (greater, equivalent, ordered):
        assert rule((one, LOW), 0.1).verdict == UNDECIDED and rule((one, LOW), 0.1).p == 1
    assert reaches((one,), 0.1).verdict == UNDECIDED and reaches((one,), 0.1).p == 1
    assert more_seeds(reaches, (one,), 0.1) == 1


def test_seeds_without_any_spread_are_decided():
    assert greater((Moments(0.5, 0, 3), Moments(0.2, 0, 3)), 0.1).verdict == SUPPORTED
    assert equivalent((Moments(0.5, 0, 3), Moments(0.5, 0, 3)), 0.1).verdict == SUPPORTED


def test_holm_is_rs():
    """p.adjust(c(.01, .02, .03, .04), "holm") and Holm's own ordering: a larger p never ends below a smaller one."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


@pytest.mark.parametrize("rule", [greater, equivalent])
def test_more_seeds_is_the_least_number_that_decides(rule):
    sides = Moments(0.06, 0.1**2, 5), Moments(0.0, 0.1**2, 5)
    more = more_seeds(rule, sides, 0.1 if rule is equivalent else 0.0)
    decided = [rule([side._replace(n=5 + k) for side in sides], 0.1 if rule is equivalent else 0.0).verdict != UNDECIDED
               for k in (more - 1, more)]  # fmt: skip
    assert decided == [False, True]
    assert more_seeds(greater, (HIGH, LOW), 0.0) == 0
    assert more_seeds(greater, (LOW, LOW), 0.0) is None


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", ["greater", "equivalent"])
def test_power_is_what_simulation_says(kind, n):
    expected, margin, spread = (0.25, 0.0, 0.1) if kind == "greater" else (0.0, 0.2, 0.1)
    generator = np.random.default_rng(0)
    rule = greater if kind == "greater" else equivalent
    trials = 400
    supported = sum(
        rule((moments(list(generator.normal(expected, spread, n))), moments(list(generator.normal(0, spread, n)))), margin)
        .verdict == SUPPORTED
        for _ in range(trials)
    )  # fmt: skip
    assert power(kind, expected, margin, spread, n) == pytest.approx(supported / trials, abs=0.12)
    assert power(kind, expected, margin, spread, n) < power(kind, expected, margin, spread, n + 5) + 1e-9


def test_power_to_reach_a_bar_is_what_simulation_says():
    generator = np.random.default_rng(0)
    reached = sum(
        reaches((moments(list(generator.normal(0.93, 0.1, 3))),), 0.9).verdict == SUPPORTED for _ in range(400)
    )
    assert power("reaches", 0.93, 0.9, 0.1, 3, sides=1) == pytest.approx(reached / 400, abs=0.06)
    assert power("reaches", 0.9, 0.9, 0.1, 3, sides=1) == pytest.approx(0.5)


def test_power_of_an_order_is_less_than_of_one_pair():
    assert power("ordered", 0.2, 0.0, 0.1, 5, sides=3) < power("greater", 0.2, 0.0, 0.1, 5)


SAMPLES = 256


def seeds_of(kind, mean, n, generator):
    """Shares of 256 samples for n seeds: normal, beta-binomial, near zero, or one of two modes."""
    shares = {
        "normal": lambda: generator.normal(mean, 0.08, n),
        "beta-binomial": lambda: generator.beta(20 * mean, 20 * (1 - mean), n),
        "near zero": lambda: np.full(n, 0.004),
        "bimodal": lambda: np.where(generator.random(n) < mean, 0.95, 0.05),
    }[kind]()
    return list(generator.binomial(SAMPLES, np.clip(shares, 0, 1)) / SAMPLES)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", ["normal", "beta-binomial", "near zero", "bimodal"])
def test_an_interval_covers_or_says_that_it_does_not(kind, n):
    """At least .93 of 95 % intervals of a difference hold the truth; bimodal seeds, where it may be less, are flagged."""
    generator, covered, flagged, trials = np.random.default_rng(1), 0, 0, 1000
    mean = 0.5
    for _ in range(trials):
        first, second = (seeds_of(kind, mean, n, generator) for _ in range(2))
        floors = tuple(max(binomial_variance(share, SAMPLES) for share in side) for side in (first, second))
        interval = welch_interval(first, second, floors)
        covered += interval.low <= 0 <= interval.high
        flagged += bimodal(first) or bimodal(second)
    if kind == "bimodal":
        assert flagged / trials > 0.9
    else:
        assert covered / trials >= 0.93
