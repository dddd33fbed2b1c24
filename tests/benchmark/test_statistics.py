"""Intervals against scipy, against numbers worked out by hand, and by how often they cover the truth."""

import math
import random

import pytest
from scipy import stats

from benchmark.statistics import (
    Interval,
    above_half,
    bimodal,
    bimodal_remark,
    binomial_variance,
    t_interval,
    t_quantile,
    welch_interval,
    wilson,
)

FIRST, SECOND = [0.98, 0.91, 0.95, 0.97, 0.88], [0.05, 0.12, 0.02, 0.31]


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 2.7, 4, 8.5, 30, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975])
def test_t_quantile_is_scipys(probability: float, freedom: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-8, abs=1e-12)


def test_t_quantile_refuses_what_it_cannot_do() -> None:
    for probability, freedom in ((0.4, 3), (1.0, 3), (0.975, 0.5), (0.975, math.nan)):
        with pytest.raises(ValueError, match="t_quantile"):
            t_quantile(probability, freedom)


def test_t_interval_is_scipys() -> None:
    expected = stats.ttest_1samp(FIRST, 0).confidence_interval(0.95)
    interval = t_interval(FIRST)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-8)
    assert interval.n == 5


def test_t_interval_by_hand() -> None:
    # Mean 2, variance 1, n = 3: half width 4.302653 / sqrt(3).
    assert t_interval([1.0, 2.0, 3.0]).low == pytest.approx(2 - 2.484138, abs=1e-6)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_welch_is_scipys(confidence: float) -> None:
    expected = stats.ttest_ind(FIRST, SECOND, equal_var=False).confidence_interval(confidence)
    interval = welch_interval(FIRST, SECOND, confidence=confidence)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert interval.estimate == pytest.approx(0.938 - 0.125)


def test_two_seeds_have_an_interval() -> None:
    expected = stats.ttest_1samp(FIRST[:2], 0).confidence_interval(0.95)
    interval = t_interval(FIRST[:2])
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    expected = stats.ttest_ind(FIRST[:2], SECOND[:2], equal_var=False).confidence_interval(0.95)
    interval = welch_interval(FIRST[:2], SECOND[:2])
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_welch_of_equal_seeds_has_the_width_of_their_samples() -> None:
    floor = binomial_variance(1.0, 512)
    assert welch_interval([1.0] * 3, [0.0] * 3) == Interval(1.0, 1.0, 1.0, 6)
    widened = welch_interval([1.0] * 3, [0.0] * 3, (floor, floor))
    assert widened.low == pytest.approx(1 - stats.t.ppf(0.975, 4) * math.sqrt(2 * floor / 3))


def test_the_floor_widens_only_what_is_narrower() -> None:
    assert t_interval(FIRST, floor=1e-9) == t_interval(FIRST)
    assert t_interval(FIRST, floor=0.1).high > t_interval(FIRST).high


def test_one_seed_has_no_interval() -> None:
    for interval in (t_interval([0.4]), welch_interval([0.4], [0.1, 0.2])):
        assert math.isnan(interval.low)
        assert math.isnan(interval.clipped(0, 1).high)
    assert t_interval([0.4]).estimate == 0.4


@pytest.mark.parametrize("values", [[], [0.1, math.nan]])
def test_missing_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="NaN"):
        t_interval(values)


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 5), (5, 5), (17, 64)])
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    interval = wilson(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    with pytest.raises(ValueError, match="share"):
        wilson(trials + 1, trials)


def test_bimodal_looks_at_neighbours_in_value() -> None:
    assert bimodal([0.9, 0.1, 0.95, 0.05])
    assert not bimodal([0.0, 0.4, 0.8])  # far apart, but no gap of more than a half
    assert not bimodal([0.0, 0.5])
    assert not bimodal([0.3])
    assert not bimodal([])


def test_bimodal_seeds_are_counted_in_words() -> None:
    seeds = [0.9, 0.1, 0.95, 0.5]
    low, high = stats.binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert above_half(seeds).estimate == 0.5  # the seed at exactly .5 is not above it
    assert bimodal_remark([0.0, *seeds[:3]]) == f"bimodal, 2 of 4 seeds above .5 (Wilson {low:.2f} to {high:.2f})"
    assert bimodal_remark(seeds) == ""


def test_binomial_variance_is_never_below_the_plain_one() -> None:
    for successes in range(65):
        share = successes / 64
        assert binomial_variance(share, 64) >= share * (1 - share) / 64
    assert binomial_variance(1.0, 512) == pytest.approx(513 / 514 * (1 / 514) / 512)


def test_t_covers_what_it_says_and_the_floor_does_not_hurt() -> None:
    draw = random.Random(5)
    trials, covered = 2000, 0
    for _ in range(trials):
        values = [draw.gauss(0.5, 0.1) for _ in range(3)]
        interval = t_interval(values, floor=binomial_variance(0.5, 512))
        covered += interval.low <= 0.5 <= interval.high
    assert 0.935 < covered / trials < 0.98  # 95 % and a little more where the floor acts; sd of the count .005


def test_clipping_keeps_the_estimate() -> None:
    assert Interval(0.99, 0.95, 1.03, 3).clipped(0, 1) == Interval(0.99, 0.95, 1.0, 3)
