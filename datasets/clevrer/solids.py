"""Where rays enter spheres, cubes and upright cylinders, and which way the surface faces there.

Everything is in the solid's own axes: its centre at the origin, turned back by its yaw. A solid is told by its half
height: the sphere's radius, half the cube's edge, the cylinder's radius and half height. Rays are lists of M; directions
have length 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datasets.clevrer.vectors import Vector, dot

BOUNDS = (1.0, math.sqrt(3), math.sqrt(2))  # radius of the sphere around each of world.SHAPES, in half heights
MISSED = float("inf")
_TINY = 1e-9  # in place of 0 in a direction, which would make 0 * inf


def entry(shape: int, half: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """Distance (M,) at which rays from outside enter a solid, MISSED where they do not.

    Args:
        shape: index into world.SHAPES.
        half: (M,).
        origin: where rays start.
        direction: of the rays.
    """
    if shape == 0:
        middle = -dot(origin, direction)
        chord = middle * middle - dot(origin, origin) + half * half
        return _entered(middle - chord.clamp(min=0).sqrt(), chord > 0)
    slabs = [_slab(o, d, half) for o, d in zip(origin, direction, strict=True)]
    if shape == 1:
        near = torch.maximum(torch.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
        far = torch.minimum(torch.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
        return _entered(near, near < far)
    (ox, oy, _), (dx, dy, _) = origin, direction
    a = (dx * dx + dy * dy).clamp(min=_TINY)
    b = ox * dx + oy * dy
    chord = b * b - a * (ox * ox + oy * oy - half * half)
    root = chord.clamp(min=0).sqrt()
    near = torch.maximum((-b - root) / a, slabs[2][0])
    far = torch.minimum((-b + root) / a, slabs[2][1])
    return _entered(near, (chord > 0) & (near < far))


def outward(shape: int, point: Vector) -> Vector:
    """Normals of length 1 at points of a solid's surface."""
    x, y, z = point
    if shape == 0:
        length = dot(point, point).sqrt()
        return x / length, y / length, z / length
    zero = torch.zeros_like(x)
    if shape == 1:
        on_x = (x.abs() >= y.abs()) & (x.abs() >= z.abs())
        on_y = ~on_x & (y.abs() >= z.abs())
        on_z = ~on_x & ~on_y
        return x.sign().where(on_x, zero), y.sign().where(on_y, zero), z.sign().where(on_z, zero)
    across = (x * x + y * y).sqrt().clamp(min=_TINY)
    lid = z.abs() >= across  # as wide as it is high
    return zero.where(lid, x / across), zero.where(lid, y / across), z.sign().where(lid, zero)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the space between two parallel planes."""
    inverse = 1 / torch.where(direction.abs() < _TINY, _TINY, direction)
    middle, reach = -origin * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _entered(distance: Tensor, met: Tensor) -> Tensor:
    return torch.where(met & (distance > 0), distance, MISSED)
