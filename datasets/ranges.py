"""What every config asks of its numbers, in one place: each field lies in its range, and nan and infinity in none."""

from __future__ import annotations

import math

ABOVE_0 = math.nextafter(0.0, 1.0)
BELOW_1 = math.nextafter(1.0, 0.0)


def check_ranges(section: str, config: object, **ranges: tuple[float, float]) -> None:
    """Raise ValueError unless each named field, or every entry of it, is a finite number from its lowest to its highest."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        entries = value if isinstance(value, tuple | list) else (value,)
        if not all(low <= entry <= high and math.isfinite(entry) for entry in entries):
            shown = list(value) if isinstance(value, tuple) else value
            finite = "" if all(math.isfinite(entry) for entry in entries) else "finite and "
            raise ValueError(f"{section}.{name}={shown} must be {finite}{_told(low, high)}")


def _told(low: float, high: float) -> str:
    lowest = "above 0" if low == ABOVE_0 else f"at least {low:g}"
    highest = "below 1" if high == BELOW_1 else f"at most {high:g}"
    return lowest if high == math.inf else f"{lowest} and {highest}"
