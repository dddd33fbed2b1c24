"""The analytic judges by the names that datasets give in ``strict_judge``."""

from __future__ import annotations

from probes.strict import StrictShapes2D
from probes.strict_clips import StrictClips

STRICT_JUDGES: dict[str, type[StrictShapes2D] | type[StrictClips]] = {"shapes2d": StrictShapes2D, "clips": StrictClips}
