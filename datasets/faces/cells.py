"""Which of CelebA's images show which composition, and what drawn faces know besides.

Digits as in Okawa et al. 2023 (``preprocess_celeba-3classes.py``): Male, NOT Smiling, and hair, 0 black and 1 blond; images of
other hair are dropped. The training corner 000 is a smiling woman with black hair.
"""

from __future__ import annotations

from datasets.factors import Factor, FactorSpace

# Of drawn faces. A mouth's corners stand above its middle by this share of its half width.
CURVES = {"smiling": 0.7, "neutral": 0.0}
HAIR = {"black": (0.12, 0.10, 0.10), "blond": (0.87, 0.72, 0.38)}  # sRGB in [0, 1]
CURVE_JITTER = 0.12  # uniform +-; our choice: half as far as the classes' middle
HAIR_JITTER = 0.05  # uniform +- per channel; our choice
WIDTHS = (CURVE_JITTER, HAIR_JITTER, HAIR_JITTER, HAIR_JITTER)  # of the V = 4 values, in their order


def space_of(drawn: bool) -> FactorSpace:
    """Gender, smile and hair, in digit order; real images have classes only, drawn ones values behind the last two."""
    curves = tuple((curve,) for curve in CURVES.values()) if drawn else ()
    colours = tuple(HAIR.values()) if drawn else ()
    return FactorSpace(
        (
            Factor("gender", ("female", "male")),
            Factor("smile", tuple(CURVES), curves),
            Factor("hair", tuple(HAIR), colours),
        )
    )
