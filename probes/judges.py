"""The strict judges by the names that datasets give in ``strict_judge``.

The analytic ones know the geometry; ``features`` is for images that nobody can measure, and is built from real ones once.
"""

from __future__ import annotations

from probes.strict import StrictShapes2D
from probes.strict_clips import StrictClips

STRICT_JUDGES: dict[str, type[StrictShapes2D] | type[StrictClips]] = {"shapes2d": StrictShapes2D, "clips": StrictClips}
FEATURES = "features"  # `probes.strict_features`
