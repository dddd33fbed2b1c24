"""The world of CLEVR and Kubric: camera, lamps, colours, materials and sizes.

The numbers are those of CLEVR's ``base_scene.blend`` and of Kubric's MOVi-A worker; lengths are in Blender units. Two
floor directions matter: RIGHT, which the camera sees as image-right, and AWAY, which leads away from it. "Floor
coordinates" are (along RIGHT, along AWAY); "world coordinates" are CLEVR's x and y. Plain numbers only: what a config
needs must not wait for torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EYE = (7.48113, -6.50764, 5.34367)  # the camera looks from here at the origin
SENSOR = 32.0  # mm
DISTANCE = math.sqrt(EYE[0] ** 2 + EYE[1] ** 2 + EYE[2] ** 2)
ELEVATION = math.asin(EYE[2] / DISTANCE)  # of the camera above the floor, 28 degrees
_FLAT = math.hypot(EYE[0], EYE[1])
RIGHT = (-EYE[1] / _FLAT, EYE[0] / _FLAT)  # (.656, .754)
AWAY = (-EYE[0] / _FLAT, -EYE[1] / _FLAT)  # (-.754, .656)


@dataclass(frozen=True)
class Lamp:
    """A square area lamp turned to the origin; ``power`` in watts."""

    position: tuple[float, float, float]
    power: float
    colour: tuple[float, float, float]
    size: float


LAMPS = (
    Lamp((6.44671, -2.90517, 4.2584), 100.0, (1.0, 0.929, 0.816), 0.5),  # key
    Lamp((-1.1685, 2.64602, 5.81574), 50.0, (1.0, 1.0, 1.0), 1.0),  # back
    Lamp((-4.67112, -4.0136, 3.01122), 30.0, (0.761, 0.816, 1.0), 0.5),  # fill
)
SUN = (11.6608, -6.62799, 25.8232)  # direction to the sun
SUN_STRENGTH = 0.45  # W / m^2
SUN_ANGLE = 0.2  # rad, its apparent diameter
AMBIENT = 0.05  # radiance of the surroundings
FLOOR = 0.502  # albedo, grey 808080 without decoding

# 0 to 255, used as linear RGB without sRGB decoding, as CLEVR and Kubric do. Yellow is CLEVR's.
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
MATERIALS = ("rubber", "metal")
DENSITY = (1.1, 2.7)  # of each material, Kubric
RESTITUTION = (0.7, 0.3)  # of each material, Kubric

SHAPES = ("sphere", "cube", "cylinder")
ABSENT = -1  # the shape of an object that is not there
# Half edge of a cube, and radius and half height of a cylinder, whose silhouettes seen from the camera have on average
# over yaw the area of a sphere's of radius 1: so the size of an object says nothing of its shape. A silhouette is the
# top times sin(elevation) plus the sides times cos(elevation); a square seen from the side is on average 4 / pi wide.
_SIN, _COS = math.sin(ELEVATION), math.cos(ELEVATION)
HALF = (
    1.0,
    math.sqrt(math.pi / (4 * _SIN + 16 / math.pi * _COS)),
    math.sqrt(math.pi / (math.pi * _SIN + 4 * _COS)),
)


def linear_colour(name: str) -> tuple[float, float, float]:
    """Linear RGB in [0, 1] of one of CLEVR's colours."""
    red, green, blue = COLOURS[name]
    return red / 255, green / 255, blue / 255


def half_extent(lens: float) -> float:
    """Half the width of the image per unit of depth, for a lens in mm."""
    return SENSOR / 2 / lens
