"""How well the samples of one trained model tell each of its shares: Wilson's interval and the count, for its record.

They describe one model. Between models the unit is the seed (`benchmark.leaderboard`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from benchmark.statistics import wilson
from datasets.factors import Composition, level

GENERATED = re.compile(r"(?:strict_)?(?:drawn_)?(?:comp_(?P<composition>\d+)|level(?P<level>\d+)|factor_\w+|accepted)")
CEILING = re.compile(r"(?:real|recon)_(?:strict_)?(?:comp_(?P<composition>\d+)|level(?P<level>\d+))")

Counts = Mapping[Composition, int]


def intervals(
    row: Mapping[str, object], samples: Counts, held_out: Counts, train: Sequence[Composition]
) -> dict[str, dict[str, float]]:
    """Share -> ``low``, ``high`` (95 %) and ``count``, for every share of samples and every ceiling in a row.

    A level is a mean over compositions; its interval is that of one share of all their images, which is that mean
    where counts are equal and else only near it.

    Args:
        samples: composition -> how many were generated, in each mode.
        held_out: composition -> how many real images the ceilings stand on.
        train: the training compositions; levels are counted from them.
    """
    found: dict[str, dict[str, float]] = {}
    for name, share in row.items():
        for pattern, counts in ((GENERATED, samples), (CEILING, held_out)):
            if (match := pattern.fullmatch(name)) and isinstance(share, float):
                known = match.groupdict()
                count = sum(n for c, n in counts.items() if _belongs(c, known, tuple(train)))
                interval = wilson(round(share * count), count)
                found[name] = {"low": interval.low, "high": interval.high, "count": count}
    return found


def _belongs(composition: Composition, known: Mapping[str, str | None], train: tuple[Composition, ...]) -> bool:
    """Whether the images of a composition are among those behind a share."""
    if known.get("composition"):
        return composition == known["composition"]
    return known.get("level") is None or level(composition, train) == int(known["level"] or 0)
