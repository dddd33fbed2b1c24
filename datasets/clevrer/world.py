"""The world of CLEVR and Kubric: camera, lamps, colours, materials and sizes, and where a point falls in the image.

The numbers are those of CLEVR's ``base_scene.blend`` and of Kubric's MOVi-A worker; lengths are in Blender units. Two
floor directions matter: RIGHT, which the camera sees as image-right, and AWAY, which leads away from it. "Floor
coordinates" are (along RIGHT, along AWAY); "world coordinates" are CLEVR's x and y.

Sums over the three coordinates are written out instead of using ``sum`` or ``matmul``: their order of addition may depend
on the shape of the batch, and a scene must not depend on which others are drawn with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]  # x, y, z, each of the same shape

EYE = (7.48113, -6.50764, 5.34367)  # the camera looks from here at the origin
SENSOR = 32.0  # mm
DISTANCE = math.sqrt(sum(x * x for x in EYE))
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


def to_world(floor: Tensor) -> Tensor:
    """Floor coordinates (..., 2) as world coordinates (..., 2)."""
    along, away = floor.unbind(-1)
    return torch.stack([along * RIGHT[0] + away * AWAY[0], along * RIGHT[1] + away * AWAY[1]], -1)


def to_floor(world: Tensor) -> Tensor:
    """World coordinates (..., 2) as floor coordinates (..., 2)."""
    x, y = world.unbind(-1)
    return torch.stack([x * RIGHT[0] + y * RIGHT[1], x * AWAY[0] + y * AWAY[1]], -1)


def vector(stacked: Tensor) -> Vector:
    """(..., 3) as three contiguous tensors."""
    x, y, z = stacked.unbind(-1)
    return x.contiguous(), y.contiguous(), z.contiguous()


def take(a: Vector, where: Tensor) -> Vector:
    """The vectors at some places of the flattened ones."""
    return a[0].flatten()[where], a[1].flatten()[where], a[2].flatten()[where]


def ahead(start: Vector, direction: Vector, reach: Tensor) -> Vector:
    """``start + direction * reach``."""
    return start[0] + direction[0] * reach, start[1] + direction[1] * reach, start[2] + direction[2] * reach


def minus(a: Vector, b: Vector) -> Vector:
    """``a - b``."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product, added up in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Vector) -> Vector:
    """The vector of length 1 that points where ``a`` does."""
    length = dot(a, a).sqrt()
    return a[0] / length, a[1] / length, a[2] / length


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def facing(position: Tensor) -> tuple[Vector, Vector, Vector]:
    """Axes of something at ``position`` (..., 3) that looks at the origin, head up: right, up and forward, each (...)."""
    forward = unit((-position[..., 0], -position[..., 1], -position[..., 2]))
    zero = torch.zeros_like(forward[0])
    right = unit((forward[1], -forward[0], zero))
    return right, cross(right, forward), forward


def project(points: Tensor, eye: Tensor, lens: float, resolution: int) -> Tensor:
    """Where points fall in the image.

    Args:
        points: world coordinates (..., 3).
        eye: the camera (..., 3), broadcast against the points.
        lens: mm.
        resolution: width and height of the image in pixels.

    Returns:
        (..., 2): x to the right and y downwards in pixels; the first pixel's centre is (.5, .5).
    """
    right, up, forward = facing(eye)
    offset = vector(points - eye)
    scale = resolution / 2 / half_extent(lens) / dot(offset, forward)
    return torch.stack([resolution / 2 + dot(offset, right) * scale, resolution / 2 - dot(offset, up) * scale], -1)
