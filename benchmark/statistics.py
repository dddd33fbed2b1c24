"""Intervals over trained models: the seed is the unit (Student, Welch), samples only bound the variance from below.

A bootstrap over three normal seeds covers 76 %, Student's t 95 %; over bimodal seeds t covers 63 %, so that those are
counted instead (Wilson). Standard library only: importing scipy takes longer than ``leaderboard`` may take in all; the
tests compare every function with scipy.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

BIMODAL_GAP = 0.5  # neighbouring seeds farther apart than this are two modes


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval; ``low`` and ``high`` are NaN where n is too small for one."""

    estimate: float
    low: float
    high: float
    n: int  # values behind the estimate (both sides together for a difference)

    def clipped(self, low: float, high: float) -> Interval:
        """The interval cut to the values that are possible at all (a share lies in 0..1)."""

        def cut(bound: float) -> float:
            return bound if math.isnan(bound) else min(max(bound, low), high)

        return replace(self, low=cut(self.low), high=cut(self.high))


class Moments(NamedTuple):
    """What a set of seeds is known by."""

    mean: float
    variance: float  # of one seed
    n: int


def t_interval(values: Sequence[float], floor: float = 0.0, confidence: float = 0.95) -> Interval:
    """Mean of one value a seed with Student's t interval; ``floor`` is the least variance of one value.

    Raises:
        ValueError: when there is no value, or one is NaN.
    """
    mean, variance, n = moments(values, floor)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = t_quantile(0.5 + confidence / 2, n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def welch_interval(
    first: Sequence[float], second: Sequence[float], floors: tuple[float, float] = (0.0, 0.0), confidence: float = 0.95
) -> Interval:
    """Difference of means, first minus second, with Welch's interval (unequal variances, Welch 1947).

    Raises:
        ValueError: when a side has no value, or a value is NaN.
    """
    return welch_of_moments(moments(first, floors[0]), moments(second, floors[1]), confidence)


def welch_of_moments(first: Moments, second: Moments, confidence: float = 0.95) -> Interval:
    """`welch_interval` of sides that are known by their moments only."""
    difference, n = first.mean - second.mean, first.n + second.n
    if first.n < 2 or second.n < 2:
        return Interval(difference, math.nan, math.nan, n)
    error_1, error_2 = first.variance / first.n, second.variance / second.n
    error = error_1 + error_2
    if error == 0:
        return Interval(difference, difference, difference, n)
    # Welch-Satterthwaite: the degrees of freedom that match the variance of the estimated error.
    freedom = error**2 / (error_1**2 / (first.n - 1) + error_2**2 / (second.n - 1))
    half = t_quantile(0.5 + confidence / 2, freedom) * math.sqrt(error)
    return Interval(difference, difference - half, difference + half, n)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Share of successes with Wilson's score interval (Wilson 1927), exact zeros and ones included.

    Raises:
        ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is no share; give 0 <= successes <= trials and trials > 0")
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), trials)


def bimodal(values: Sequence[float]) -> bool:
    """Whether two neighbouring seeds lie more than .5 apart: a mean then describes none of them."""
    ordered = sorted(values)
    return any(b - a > BIMODAL_GAP for a, b in itertools.pairwise(ordered))


def above_half(values: Sequence[float]) -> Interval:
    """Share of seeds above .5 with Wilson's interval: what is told of bimodal ones instead of a mean."""
    return wilson(sum(value > BIMODAL_GAP for value in values), len(values))


def bimodal_remark(values: Sequence[float]) -> str:
    """How many of bimodal seeds are above .5, in words; empty where seeds are not bimodal."""
    if not bimodal(values):
        return ""
    above = above_half(values)
    share = f"{round(above.estimate * above.n)} of {above.n} seeds above .5"
    return f"bimodal, {share} (Wilson {above.low:.2f} to {above.high:.2f})"


def binomial_variance(share: float, samples: int) -> float:
    """Variance of one seed's share over its samples: the least that seeds can differ by.

    The share is smoothed by Laplace's rule, (successes + 1) / (samples + 2), so that five seeds that all reach
    exactly 1 do not claim an interval of no width.
    """
    smoothed = (share * samples + 1) / (samples + 2)
    return smoothed * (1 - smoothed) / samples


@functools.cache
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution, for 0.5 <= probability < 1 and real degrees of freedom from 1 to 1e5.

    With t = sqrt(freedom) tan(a), the density is proportional to cos(a)^(freedom - 1): smooth on a bounded interval, so
    that Gauss-Legendre quadrature and bisection over the angle give the 95 % quantile to a relative 1e-8.

    Raises:
        ValueError: outside that range.
    """
    if not (0.5 <= probability < 1 and 1 <= freedom <= 1e5):
        raise ValueError(
            f"t_quantile is for .5 <= probability < 1 and freedom from 1 to 1e5, not {probability}, {freedom}"
        )
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi)
    wanted = (probability - 0.5) * whole
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _cosine_power(middle, freedom - 1) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _cosine_power(angle: float, power: float, panels: int = 32) -> float:
    """Integral of cos(a)^power from 0 to angle, three Gauss-Legendre points on each panel."""
    width = angle / panels
    nodes = ((-math.sqrt(0.6), 5 / 18), (0.0, 8 / 18), (math.sqrt(0.6), 5 / 18))
    points = ((panel + 0.5 + node / 2, weight) for panel in range(panels) for node, weight in nodes)
    return width * sum(weight * math.cos(point * width) ** power for point, weight in points)


def moments(values: Sequence[float], floor: float = 0.0) -> Moments:
    """Mean, and variance over the values but never below the floor.

    Raises:
        ValueError: when there is no value, or one is NaN.
    """
    if not values or any(math.isnan(value) for value in values):
        raise ValueError("an interval needs at least one value and no NaN; leave out cells without a result")
    mean = statistics.fmean(values)
    variance = statistics.variance(values, mean) if len(values) > 1 else 0.0
    return Moments(mean, max(variance, floor), len(values))
