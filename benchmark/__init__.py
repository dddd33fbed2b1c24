"""Benchmark: turns a grid into a leaderboard. The only room that knows all the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the checkout


def _put_checkout_first() -> None:
    """Make ``datasets``, ``architectures`` and ``probes`` those of this checkout.

    ``datasets`` is also the name of Hugging Face's package, which may be installed beside us. ``find_spec`` looks
    without importing, so that nothing foreign runs and no torch is loaded.
    """
    if sys.path[0] != str(ROOT):
        sys.path.insert(0, str(ROOT))
    for room in ("datasets", "architectures", "probes"):
        spec = importlib.util.find_spec(room)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ROOT / room:
            origin = spec.origin if spec else "nowhere"
            print(
                f"The package '{room}' comes from {origin} and not from {ROOT}: start a fresh Python with "
                f"`python -m benchmark`, before anything else imports '{room}'.",
                file=sys.stderr,
            )
            raise SystemExit(2)


_put_checkout_first()
