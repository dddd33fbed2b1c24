"""What a claim says about means over seeds, decided: greater, equivalent, ordered, or reached; Holm's correction; power.

Sides come as moments (mean, variance of one seed, n), so that the same functions tell what more seeds would decide.
scipy is imported where it is used: `plan` imports this module too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmark.statistics import Interval, Moments, welch_of_moments

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
KNOWN = Moments(0.0, 0.0, 2)  # a side without error: Welch's test against it is Student's of one sample
MOST_SEEDS = 1000  # a side: what is not decided by so many is not worth a number


@dataclass(frozen=True)
class Decision:
    """A verdict with what it rests on."""

    verdict: str
    effect: Interval  # difference of means (or the mean that reaches a bar) with its two-sided interval
    p: float  # of the test that could have decided; below 1 - confidence exactly where it has, but for `reaches`


Rule = Callable[[Sequence[Moments], float, float], Decision]  # sides, margin, confidence


def verdict(interval: Interval, above: float) -> str:
    """Where an interval lies: wholly above the bar, wholly below it, or neither (or there is none)."""
    if interval.low > above:
        return SUPPORTED
    return CONTRADICTED if interval.high < above else UNDECIDED


def greater(sides: Sequence[Moments], margin: float, confidence: float = 0.95) -> Decision:
    """First minus second lies above the margin: supported where its whole interval does, contradicted where it lies below."""
    first, second = sides
    interval = welch_of_moments(first, second, confidence)
    p = min(1.0, 2 * min(p_above(first, second, margin), p_above(second, first, -margin)))
    return Decision(verdict(interval, margin), interval, p)


def equivalent(sides: Sequence[Moments], margin: float, confidence: float = 0.95) -> Decision:
    """Two means differ by less than the margin: two one-sided tests (Schuirmann 1987), each at 1 - confidence.

    Supported where both reject, contradicted where the whole interval lies outside the margin. Means that are merely
    not told apart are undecided.
    """
    first, second = sides
    within = max(p_above(first, second, -margin), p_above(second, first, -margin))
    outside = min(1.0, 2 * min(p_above(first, second, margin), p_above(second, first, margin)))
    alpha = 1 - confidence
    decided = SUPPORTED if within < alpha else CONTRADICTED if outside < alpha else UNDECIDED
    return Decision(decided, welch_of_moments(first, second, confidence), min(within, outside))


def ordered(sides: Sequence[Moments], margin: float, confidence: float = 0.95) -> Decision:
    """Every mean lies above the next by more than the margin; the effect is that of the closest neighbours.

    Supported where all neighbours are (an intersection of tests needs no correction), contradicted where one pair is
    the other way round, corrected for the number of pairs.
    """
    pairs = [(greater(pair, margin, confidence), pair) for pair in itertools.pairwise(sides)]
    upwards = max(d.p if d.effect.estimate > margin else 1.0 for d, _ in pairs)
    downwards = min(1.0, len(pairs) * min(d.p if d.effect.estimate < margin else 1.0 for d, _ in pairs))
    alpha = 1 - confidence
    decided = SUPPORTED if upwards < alpha else CONTRADICTED if downwards < alpha else UNDECIDED
    closest = min((d.effect for d, _ in pairs), key=lambda effect: effect.estimate)
    return Decision(decided, closest, min(upwards, downwards))


def reaches(sides: Sequence[Moments], margin: float, confidence: float = 0.95) -> Decision:
    """The mean share of one side is at least the margin: supported where it is, contradicted where it is not.

    The mean decides, wherever its interval lies: that is what was written down before the seeds were run. p is that of
    a t test against the margin, so that what Holm's correction leaves is the stricter reading, a mean that is told
    from the margin too.
    """
    (side,) = sides
    test = greater((side, KNOWN), margin, confidence)
    decided = UNDECIDED if side.n < 2 else SUPPORTED if side.mean >= margin else CONTRADICTED
    return Decision(decided, replace(test.effect, n=side.n).clipped(0.0, 1.0), test.p)


RULES: dict[str, Rule] = {"greater": greater, "equivalent": equivalent, "ordered": ordered, "reaches": reaches}
SIDES = {"greater": (2, 2), "equivalent": (2, 2), "ordered": (2, math.inf), "reaches": (1, 1)}  # least and most


def p_above(first: Moments, second: Moments, bar: float) -> float:
    """Welch's one-sided p of first minus second not exceeding the bar; 1 where a side has too few seeds to tell."""
    from scipy import stats

    if first.n < 2 or second.n < 2:
        return 1.0
    if first.variance == second.variance == 0:
        return 0.0 if first.mean - second.mean > bar else 1.0
    spread = [(side.mean, math.sqrt(side.variance), side.n) for side in (first, second)]
    (mean, deviation, n), other = spread
    test = stats.ttest_ind_from_stats(mean - bar, deviation, n, *other, equal_var=False, alternative="greater")
    return float(test.pvalue)


def more_seeds(rule: Rule, sides: Sequence[Moments], margin: float, confidence: float = 0.95) -> int | None:
    """How many more seeds a side would decide if means and variances stayed as they are; None where none would.

    It is what is likely, not promised: with the true effect equal to the estimated one, about every second time.
    """

    def decides(more: int) -> bool:
        larger = [side._replace(n=side.n + more) for side in sides]
        return rule(larger, margin, confidence).verdict != UNDECIDED

    if decides(0):
        return 0
    if not decides(MOST_SEEDS):
        return None
    few, enough = 0, MOST_SEEDS
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return enough


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down procedure (Holm 1979), in the order given."""
    adjusted, so_far = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        so_far = max(so_far, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = so_far
    return adjusted


def power(kind: str, expected: float, margin: float, spread: float, n: int, sides: int = 2) -> float:
    """Probability that so many seeds a side support a claim, were the difference as expected and seeds normal.

    Args:
        expected: true difference (of neighbours, for ``ordered``; for ``reaches`` the true mean).
        spread: standard deviation of one seed, equal for all sides.
        sides: of an ordered claim; its power is a lower bound.
    """
    from scipy import stats

    if kind == "reaches":
        return float(stats.norm.cdf((expected - margin) / (spread / math.sqrt(n))))
    error, freedom = spread * math.sqrt(2 / n), 2 * n - 2
    if kind == "equivalent":  # the estimated error taken as known
        limit = stats.t.ppf(0.95, freedom)
        high, low = (margin - expected) / error - limit, limit - (margin + expected) / error
        return float(max(0.0, stats.t.cdf(high, freedom) - stats.t.cdf(low, freedom)))
    one = float(stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, (expected - margin) / error))
    return one if kind == "greater" else max(0.0, 1 - (sides - 1) * (1 - one))
