"""The camera's view: which way is right, and where a point of the world falls in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.clevrer.vectors import Vector, cross, dot, unit, vector
from datasets.clevrer.world import AWAY, RIGHT, half_extent


def to_world(floor: Tensor) -> Tensor:
    """Floor coordinates (..., 2) as world coordinates (..., 2)."""
    along, away = floor.unbind(-1)
    return torch.stack([along * RIGHT[0] + away * AWAY[0], along * RIGHT[1] + away * AWAY[1]], -1)


def to_floor(world: Tensor) -> Tensor:
    """World coordinates (..., 2) as floor coordinates (..., 2)."""
    x, y = world.unbind(-1)
    return torch.stack([x * RIGHT[0] + y * RIGHT[1], x * AWAY[0] + y * AWAY[1]], -1)


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
